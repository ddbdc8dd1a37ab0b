package main

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	"github.com/alkdev/alknet-p2p/node"
)

func newConfig(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Show where the configuration is, and check it",
		Args:  noArgs,
		RunE:  needCommand,
	}
	cmd.AddCommand(newConfigPath(a), newConfigCheck(a))
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
		Short: "Check the configuration file",
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
