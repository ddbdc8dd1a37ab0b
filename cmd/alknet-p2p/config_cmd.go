package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"
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
