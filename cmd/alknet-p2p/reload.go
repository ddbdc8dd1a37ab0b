package main

import (
	"log/slog"
	"reflect"
	"slices"
	"strings"

	"github.com/alkdev/alknet-p2p/protocols/auth/peerfile"
)

// reloadReport is what a running node made of its files when it read them
// again.
type reloadReport struct {
	// Changed are the entries of the registry that are others now.
	Changed []change `json:"changed"`
	// Ignored are the keys of config.toml that were changed since the node
	// started and take effect when it starts again.
	Ignored []string `json:"ignored"`
}

// reload reads the configuration and the registry again. If one of them is not
// valid nothing is changed and the error says where the fault is.
func (r *runningNode) reload() (*reloadReport, error) {
	r.reloading.Lock()
	defer r.reloading.Unlock()
	cfg, err := readConfig(r.home.config())
	if err != nil {
		r.log.Error("configuration not reloaded, nothing is changed", slog.Any("err", err))
		return nil, err
	}
	// The tickets before the peers: if those are not valid these stay too.
	err = r.tickets.Reload()
	r.ticketsReloaded(err)
	if err != nil {
		return nil, err
	}
	changed, err := r.reloaded(peerfile.Reload(r.home.peers(), r.peers))
	if err != nil {
		return nil, err
	}
	changed = append(changed, r.admit(cfg)...)
	joined, err := r.join(cfg)
	if err != nil {
		return nil, err
	}
	changed = append(changed, joined...)
	report := &reloadReport{Changed: changed, Ignored: r.config.differences(cfg)}
	if len(report.Ignored) > 0 {
		r.log.Warn("changes of the configuration wait until the node starts again", slog.Any("keys", report.Ignored))
	}
	return report, nil
}

// reloaded applies a new registry to the open sessions and tells what is new.
// err is why there is none.
func (r *runningNode) reloaded(err error) ([]change, error) {
	if err != nil {
		r.log.Error("peers not reloaded, the old ones stay", slog.Any("err", err))
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.peers.Config()
	changed := changes(r.applied, now)
	r.applied = now
	r.Recheck()
	r.log.Info("peers reloaded", slog.Int("changes", len(changed)))
	// The change was made in the file, by whoever may: this line tells when the
	// node took it up.
	if err := r.home.auditChanges("reload", byPeersFile, changed); err != nil {
		r.log.Error("a change of rights is not in the audit log", slog.Any("err", err))
	}
	return changed, nil
}

// ticketsReloaded applies a new ledger of tickets to the open sessions. err is
// why there is none.
func (r *runningNode) ticketsReloaded(err error) {
	if err != nil {
		r.log.Error("tickets not reloaded, the old ones stay", slog.Any("err", err))
		return
	}
	r.Recheck()
}

// admit takes up who may have sessions, unless the flag of up has said so.
func (r *runningNode) admit(cfg *config) []change {
	was, is := r.config.admission(r.flags), cfg.admission(r.flags)
	r.config.Admission, r.config.AdmissionALPN = cfg.Admission, cfg.AdmissionALPN
	had, has := factsOfAdmission(was), factsOfAdmission(is)
	c := change{Entry: "admission", What: "changed", Gained: without(has, had), Lost: without(had, has)}
	if len(c.Gained) == 0 && len(c.Lost) == 0 {
		return nil
	}
	if err := r.SetAdmission(is); err != nil { // the file was checked
		r.log.Error("admission not changed", slog.Any("err", err))
		return nil
	}
	if err := r.home.auditChanges("reload", byConfigFile, []change{c}); err != nil {
		r.log.Error("a change of rights is not in the audit log", slog.Any("err", err))
	}
	return []change{c}
}

// join enters the network by the tickets that are new. Those that were taken out
// are left at the next start.
func (r *runningNode) join(cfg *config) ([]change, error) {
	fresh := without(cfg.Join, r.config.Join)
	if len(fresh) > 0 {
		if err := r.Join(fresh...); err != nil {
			r.log.Error("not joined", slog.Any("err", err))
			return nil, failf(exitUsage, codeConfig, "%s: join: %s", r.home.config(), oneLine(err.Error()))
		}
	}
	if len(without(r.config.Join, cfg.Join)) == 0 {
		r.config.Join = cfg.Join
	} else {
		r.config.Join = with(r.config.Join, fresh...)
	}
	if len(fresh) == 0 {
		return nil, nil
	}
	return []change{{Entry: "join", What: "changed", Gained: marked("ticket ", fresh)}}, nil
}

// Who the audit log names when the node finds a file changed.
const (
	byConfigFile = "config.toml"
	byPeersFile  = "peers.json"
)

// differences lists the keys that another reading of the file gives other values.
func (c *config) differences(other *config) []string {
	keys := []string{}
	was, is := reflect.ValueOf(*c), reflect.ValueOf(*other)
	for field := range was.Type().Fields() {
		key, _, _ := strings.Cut(field.Tag.Get("toml"), ",")
		if key != "" && !reflect.DeepEqual(was.FieldByIndex(field.Index).Interface(), is.FieldByIndex(field.Index).Interface()) {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys
}
