package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/alkdev/alknet-p2p/node"
	"github.com/alkdev/alknet-p2p/protocols/admit"
	"github.com/alkdev/alknet-p2p/protocols/auth"
	"github.com/alkdev/alknet-p2p/protocols/auth/ticket"
	"github.com/alkdev/alknet-p2p/protocols/auth/ticketfile"
)

func newTicket(a *app) *cobra.Command {
	var qr bool
	cmd := &cobra.Command{
		Use:   "ticket",
		Short: "Print this node's ticket; make tickets that let others call operations",
		Long: `Prints the running node's ticket: its key and where it can be found now. Others
join the network with it, or name this node by it. It grants nothing.

With create it makes a capability ticket, which does: whoever has it may call
what it names.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			h, err := a.home()
			if err != nil {
				return err
			}
			text, err := newClient(h).ticket(cmd.Context())
			if err != nil {
				return err
			}
			return a.show(map[string]string{"ticket": text}, func(w *bytes.Buffer) {
				fmt.Fprintln(w, text)
				if qr {
					printQR(w, text)
				}
			})
		},
	}
	cmd.Flags().BoolVar(&qr, "qr", false, "print it as a QR code too")
	cmd.AddCommand(newTicketCreate(a), newTicketLs(a), newTicketRevoke(a))
	return cmd
}

// ticketRequest asks a running node for a capability ticket.
type ticketRequest struct {
	Only   []string  `json:"only"`
	Scopes []string  `json:"scopes"`
	Expire time.Time `json:"expire"`
	Once   bool      `json:"once,omitzero"`
	Bearer bool      `json:"bearer,omitzero"`
	Note   string    `json:"note,omitzero"`
}

// ticketAnswer is a capability ticket as it is told of; the ticket itself once,
// by create.
type ticketAnswer struct {
	Token   string     `json:"token,omitzero"`
	ID      string     `json:"id"`
	State   string     `json:"state"` // good, expired, revoked, used
	Only    []string   `json:"only"`
	Scopes  []string   `json:"scopes"`
	Expires time.Time  `json:"expires"`
	Once    bool       `json:"once"`
	Bearer  bool       `json:"bearer"`
	BoundTo *string    `json:"bound_to"` // the key it belongs to; null: none yet
	Used    *time.Time `json:"used"`
	Note    string     `json:"note,omitzero"`
}

func newTicketCreate(a *app) *cobra.Command {
	var (
		r       rights
		only    []string
		expires = lifetime{24 * time.Hour}
		ask     ticketRequest
	)
	cmd := &cobra.Command{
		Use:   "create --op OPERATION...",
		Short: "Make a capability ticket and print it, this once",
		Long: `Makes a ticket that lets whoever has it call the operations it names on this
node, and nothing else. It needs no entry in the registry, and lets its holder
in where strangers are not admitted. It belongs to the first key that brings it,
unless it is a bearer ticket.

Its scopes are call:OPERATION for each operation, or those given. It is used
with call TARGET OPERATION --token-file FILE.`,
		Example: `  alknet-p2p ticket create --op disk/free --expires 24h --once`,
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if len(only) == 0 {
				return usagef("a ticket opens nothing without --op OPERATION")
			}
			h, err := a.home()
			if err != nil {
				return err
			}
			ask.Only, ask.Scopes, ask.Expire = with(nil, only...), with([]string{}, r.scopes...), time.Now().Add(expires.Duration)
			if len(r.scopes) == 0 {
				ask.Scopes = marked("call:", ask.Only)
			}
			answer, err := newClient(h).issueTicket(cmd.Context(), ask)
			if err != nil {
				return err
			}
			a.sayf("This is the only time the ticket is shown. Its id is %s.", answer.ID)
			return a.show(answer, func(w *bytes.Buffer) { fmt.Fprintln(w, answer.Token) })
		},
	}
	r.addScopes(cmd)
	flags := cmd.Flags()
	flags.StringArrayVar(&only, "op", nil, "an `operation` it lets call, such as disk/free; may be repeated")
	flags.Var(&expires, "expires", "how long it is good for, such as 24h or 30d")
	flags.BoolVar(&ask.Once, "once", false, "good for one call")
	flags.BoolVar(&ask.Bearer, "bearer", false, "good for any key, and not only the first that brings it")
	flags.StringVar(&ask.Note, "note", "", "what it is for")
	return cmd
}

func newTicketLs(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "ls",
		Short: "List the capability tickets this node has issued",
		Args:  noArgs,
		RunE: func(*cobra.Command, []string) error {
			h, err := a.home()
			if err != nil {
				return err
			}
			file, err := ticketfile.Open(h.tickets())
			if err != nil {
				return err
			}
			tickets := []ticketAnswer{}
			for _, e := range file.Snapshot().Ledger().Tickets {
				tickets = append(tickets, ticketAnswerOf(&e, time.Now()))
			}
			return a.show(map[string][]ticketAnswer{"tickets": tickets}, func(w *bytes.Buffer) {
				rows := [][]string{{"ID", "STATE", "EXPIRES", "OPERATIONS", "KEY", "NOTE"}}
				for _, t := range tickets {
					key := "-"
					switch {
					case t.Bearer:
						key = "any"
					case t.BoundTo != nil:
						key = *t.BoundTo
					}
					state := t.State
					if t.Once && state == "good" {
						state += " once"
					}
					rows = append(rows, []string{
						t.ID, state, t.Expires.Format(time.DateTime), oneLine(strings.Join(t.Only, " ")), key, oneLine(t.Note),
					})
				}
				table(w, rows)
			})
		},
	}
}

func newTicketRevoke(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "revoke ID...",
		Short: "Take capability tickets back",
		Long: `Makes tickets void at once, whoever has them. The sessions that they keep open
end, and what runs in them is cancelled.`,
		Args: rangeArgs(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			h, err := a.home()
			if err != nil {
				return err
			}
			revoked := []ticketAnswer{}
			for _, id := range args {
				t, err := a.revokeTicket(cmd.Context(), h, id)
				if err != nil {
					return err
				}
				revoked = append(revoked, *t)
			}
			if _, err := newClient(h).reload(cmd.Context()); err != nil && !isNotRunning(err) {
				return err
			}
			return a.show(map[string][]ticketAnswer{"tickets": revoked}, func(w *bytes.Buffer) {
				for _, t := range revoked {
					fmt.Fprintf(w, "ticket %s is revoked\n", t.ID)
				}
			})
		},
		ValidArgsFunction: a.completeTicket,
	}
}

// revokeTicket takes one back. It needs no node: the ledger decides, and a node
// that runs looks at it.
func (a *app) revokeTicket(ctx context.Context, h home, id string) (*ticketAnswer, error) {
	if _, err := ticket.ParseID(id); err != nil {
		return nil, usagef("%s", err)
	}
	file, err := ticketfile.Open(h.tickets())
	if err != nil {
		return nil, err
	}
	var answer ticketAnswer
	logged := false
	err = file.Update(ctx, func(l *ticket.Ledger) error {
		if err := l.Revoke(id); err != nil {
			return err
		}
		for i := range l.Tickets {
			if l.Tickets[i].ID == id {
				answer = ticketAnswerOf(&l.Tickets[i], time.Now())
			}
		}
		logged = true
		return newAuditLog(h).add(auditEntry{Action: "ticket.revoke", Subject: "ticket " + id, OK: true})
	})
	switch {
	case err == nil:
		return &answer, nil
	case errors.Is(err, ticket.ErrUnknown):
		return nil, failf(exitFailed, codeFailed, "no ticket has the id %s; see alknet-p2p ticket ls", id)
	case logged:
		a.audit(h, "ticket.revoke", "ticket "+id, err)
	}
	return nil, err
}

// issueTicket makes a ticket, which stands in the audit log before anybody has it.
func (r *runningNode) issueTicket(ctx context.Context, ask ticketRequest) (*ticketAnswer, error) {
	t, token, err := r.IssueTicket(ctx, ticket.Terms{
		Only: ask.Only, Scopes: ask.Scopes, Expires: ask.Expire, Once: ask.Once, Bearer: ask.Bearer,
	}, ask.Note)
	if err != nil {
		return nil, failf(exitUsage, codeUsage, "%s", err)
	}
	e := ticket.Entry{
		ID: t.ID.String(), Only: t.Only, Scopes: t.Scopes, ExpiresAt: t.Expires.Unix(), Once: t.Once, Bearer: t.Bearer, Note: ask.Note,
	}
	facts := append(append(marked("operation ", t.Only), marked("scope ", t.Scopes)...), "expires "+t.Expires.UTC().Format(time.RFC3339))
	if t.Once {
		facts = append(facts, "once")
	}
	if t.Bearer {
		facts = append(facts, "bearer")
	}
	c := change{Entry: "ticket " + e.ID, What: "added", Gained: facts}
	if err := r.home.auditChanges("ticket.create", "", []change{c}); err != nil {
		return nil, err
	}
	answer := ticketAnswerOf(&e, time.Now())
	answer.Token = token.Reveal()
	return &answer, nil
}

func ticketAnswerOf(e *ticket.Entry, now time.Time) ticketAnswer {
	t := ticketAnswer{
		ID: e.ID, State: "good", Only: with([]string{}, e.Only...), Scopes: with([]string{}, e.Scopes...), Note: e.Note,
		Expires: unixTime(uint64(max(e.ExpiresAt, 0))), Once: e.Once, Bearer: e.Bearer,
	}
	if e.BoundTo != "" {
		t.BoundTo = &e.BoundTo
	}
	if e.UsedAt > 0 {
		at := unixTime(uint64(e.UsedAt))
		t.Used = &at
	}
	switch err := e.Void(now); {
	case errors.Is(err, ticket.ErrRevoked):
		t.State = "revoked"
	case errors.Is(err, ticket.ErrExpired):
		t.State = "expired"
	case err != nil:
		t.State = "used"
	}
	return t
}

// completeTicket offers the ids of tickets that are still good to the shell.
func (a *app) completeTicket(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
	h, err := a.home()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	file, err := ticketfile.Open(h.tickets())
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var ids []cobra.Completion
	for _, e := range file.Snapshot().Ledger().Tickets {
		if e.Void(time.Now()) == nil {
			ids = append(ids, e.ID)
		}
	}
	return ids, cobra.ShellCompDirectiveNoFileComp
}

// tokenFlag is where a command that calls gets the token from that it brings: an
// API token or a capability ticket, never from the command line itself.
type tokenFlag struct{ file string }

const maxTokenFile = 4096

func (f *tokenFlag) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.file, "token-file", "", "bring the API token or capability ticket in this `file`, - for standard input")
}

// read returns the token, "" where there is none. stdinTaken says that the
// input of the operation is read from standard input.
func (f *tokenFlag) read(a *app, stdinTaken bool) (string, error) {
	var text []byte
	var err error
	switch {
	case f.file == "":
		return "", nil
	case f.file == "-" && stdinTaken:
		return "", usagef("the token and the input cannot both come from standard input")
	case f.file == "-":
		text, err = io.ReadAll(io.LimitReader(a.in, maxTokenFile+1))
	default:
		text, err = readAtMost(f.file, maxTokenFile+1)
	}
	token := string(bytes.TrimSpace(text))
	switch {
	case err != nil:
		return "", err
	case len(text) > maxTokenFile, token == "", strings.ContainsAny(token, " \t\r\n"):
		return "", usagef("--token-file %s holds no token", f.file)
	}
	return token, nil
}

// knock brings a capability ticket to its node's door first, for it may be one
// that lets nobody in otherwise. A node that has no door is open, or says no for
// itself.
func knock(ctx context.Context, n *node.Node, target, token string) error {
	t := auth.TokenFromText(token)
	if !ticket.Is(t) {
		return nil
	}
	if err := n.Knock(ctx, target, t); errors.Is(err, admit.ErrRefused) {
		return failf(exitDenied, codeForbidden, "%s: %s", target, err)
	}
	return nil
}
