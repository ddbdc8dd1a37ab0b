package main

import (
	"bytes"
	"cmp"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/spf13/cobra"

	"github.com/alkdev/alknet-p2p/node"
	"github.com/alkdev/alknet-p2p/protocols/auth"
	"github.com/alkdev/alknet-p2p/protocols/auth/peerfile"
	"github.com/alkdev/alknet-p2p/protocols/call"
	"github.com/alkdev/alknet-p2p/protocols/call/adapt"
	"github.com/alkdev/alknet-p2p/transport"
	"github.com/alkdev/alknet-p2p/transport/relay"
)

func newConfig(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Show the configuration, check it, and let the node read it again",
		Args:  noArgs,
		RunE:  needCommand,
	}
	cmd.AddCommand(newConfigPath(a), newConfigCheck(a), newConfigShow(a), newConfigReload(a))
	return cmd
}

func newConfigPath(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "path",
		Short: "Print the path of the configuration file",
		Args:  noArgs,
		RunE: func(*cobra.Command, []string) error {
			h, err := a.home()
			if err != nil {
				return err
			}
			return a.show(map[string]string{"path": h.config()}, func(w *bytes.Buffer) { fmt.Fprintln(w, h.config()) })
		},
	}
}

func newConfigCheck(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "check [FILE]",
		Short: "Check the configuration file and the registry of peers",
		Args:  rangeArgs(0, 1),
		RunE: func(_ *cobra.Command, args []string) error {
			h, err := a.home()
			if err != nil {
				return err
			}
			file := h.config()
			if len(args) > 0 {
				file = args[0]
				if _, err := os.Stat(file); err != nil {
					return failf(exitUsage, codeConfig, "%s", err)
				}
			}
			cfg, err := readConfig(file)
			if err != nil {
				var at *configError
				if errors.As(err, &at) && !a.json {
					a.sayf("%s", at.excerpt())
				}
				return err
			}
			if err := cfg.tryOut(h); err != nil {
				return failf(exitUsage, codeConfig, "%s: %s", file, err)
			}
			if err := cfg.checkCredentials(h); err != nil {
				return err
			}
			if _, err := peerfile.Load(h.peers()); err != nil {
				return err
			}
			answer := struct {
				Path       string `json:"path"`
				Operations int    `json:"operations"`
			}{file, len(cfg.Operations)}
			return a.show(answer, func(w *bytes.Buffer) {
				fmt.Fprintf(w, "%s: ok, %d operations\n", file, len(cfg.Operations))
			})
		},
	}
}

func newConfigShow(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "show",
		Short: "Print the configuration with all its defaults",
		Long: `Prints what the configuration file says and, where it says nothing, what holds
then. Flags of up, which override it for one run, are not part of it.`,
		Args: noArgs,
		RunE: func(*cobra.Command, []string) error {
			h, err := a.home()
			if err != nil {
				return err
			}
			cfg, err := readConfig(h.config())
			if err != nil {
				return err
			}
			if err := cfg.fillDefaults(); err != nil {
				return err
			}
			text, err := toml.Marshal(cfg)
			if err != nil {
				return err
			}
			var values map[string]any
			if err := toml.Unmarshal(text, &values); err != nil {
				return err
			}
			return a.show(values, func(w *bytes.Buffer) { w.Write(text) })
		},
	}
}

func newConfigReload(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "reload",
		Short: "Let the running node read its files again",
		Long: `Lets the running node read the configuration, the peers and the tickets again,
as SIGHUP does, and prints what is new. Changes of peers.json are taken up by
themselves. Peers, tokens, limits and who is admitted take effect at once; all
else when the node starts again, and is named. If a file is not valid nothing
changes.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			h, err := a.home()
			if err != nil {
				return err
			}
			report, err := newClient(h).reload(cmd.Context())
			if err != nil {
				return err
			}
			return a.show(report, func(w *bytes.Buffer) {
				for _, c := range report.Changed {
					fmt.Fprintln(w, oneLine(c.String()))
				}
				if len(report.Changed) == 0 {
					fmt.Fprintln(w, "nothing has changed")
				}
				if len(report.Ignored) > 0 {
					fmt.Fprintf(w, "waits until the node starts again: %s\n", strings.Join(report.Ignored, ", "))
				}
			})
		},
	}
}

// fillDefaults says what holds where the file says nothing.
func (c *config) fillDefaults() error {
	c.Network = cmp.Or(c.Network, transport.DefaultNetwork)
	if c.MDNS == nil {
		c.MDNS = new(true)
	}
	if c.PortMapping == nil {
		c.PortMapping = new(true)
	}
	if !c.RelayRate.set {
		c.RelayRate = bitRate{8 * relay.DefaultRate, true}
	}
	c.DrainTimeout.Duration = cmp.Or(c.DrainTimeout.Duration, node.DefaultDrainTimeout)
	c.Admission = cmp.Or(c.Admission, auth.AdmitOpen)
	ops, err := c.operations(nil)
	if err != nil {
		return err
	}
	for i := range c.Operations {
		o := &c.Operations[i]
		o.Type = ops[i].Spec.Type
		o.Scopes = ops[i].Spec.Access.RequiredScopes
		o.Timeout.Duration = ops[i].Timeout
		o.Input = cmp.Or(o.Input, string(adapt.InputJSON))
		o.Output = cmp.Or(o.Output, string(defaultOutput(o.Type)))
		o.MaxOutput.bytes = cmp.Or(o.MaxOutput.bytes, adapt.DefaultMaxOutput)
		o.MaxConcurrent = cmp.Or(o.MaxConcurrent, adapt.DefaultMaxConcurrent)
	}
	return nil
}

func defaultOutput(t call.OpType) adapt.Output {
	if t == call.OpSubscription {
		return adapt.OutputJSONL
	}
	return adapt.OutputJSON
}

// tryOut makes a node of the configuration, with a key that is thrown away, and
// starts nothing: what up would refuse is refused here.
func (c *config) tryOut(h home) error {
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		return err
	}
	log := slog.New(slog.DiscardHandler)
	ops, err := c.operations(log)
	if err != nil {
		return err
	}
	cfg := c.node(h, nodeFlags{}, &nodeKey{private: key}, nil, log)
	cfg.CacheDir = ""
	n, err := node.New(cfg)
	if err != nil {
		return err
	}
	return n.Calls().Register(ops...)
}
