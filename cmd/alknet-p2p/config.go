package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"math"
	"net/netip"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"

	"github.com/alkdev/alknet-p2p/protocols/auth"
	"github.com/alkdev/alknet-p2p/protocols/call"
	"github.com/alkdev/alknet-p2p/protocols/call/adapt"
)

// config is the file config.toml. It is read when the node starts, and again
// by reload, which takes up who is admitted and no more; who the peers are and
// what they may do is in peers.json, which is read again whenever it changes.
type config struct {
	Network       string                `toml:"network"`
	Join          []string              `toml:"join"`
	Listen        []string              `toml:"listen,omitempty"` // nil and empty differ
	Listen443     bool                  `toml:"listen_443"`
	Relay         bool                  `toml:"relay"`
	RelayRate     bitRate               `toml:"relay_rate"`
	Domain        string                `toml:"domain"`
	TLSCert       string                `toml:"tls_cert"`
	TLSKey        string                `toml:"tls_key"`
	ACMEDirectory string                `toml:"acme_directory"`
	ACMERoots     string                `toml:"acme_roots"`
	Proxy         proxyURL              `toml:"proxy"`
	Publish       publish               `toml:"publish"`
	MDNS          *bool                 `toml:"mdns"`
	PortMapping   *bool                 `toml:"port_mapping"`
	HideIP        bool                  `toml:"hide_ip"`
	NoRelay       bool                  `toml:"no_relay"`
	Disclose      disclose              `toml:"disclose"`
	Port          uint16                `toml:"port"`
	External      []netip.AddrPort      `toml:"external"`
	DrainTimeout  duration              `toml:"drain_timeout"`
	Admission     auth.Admit            `toml:"admission"`
	AdmissionALPN map[string]auth.Admit `toml:"admission_alpn,omitempty"`
	Operations    []operationConfig     `toml:"operation"`

	places places
}

// operationConfig is one [[operation]]: a program or an HTTP service that serves
// an operation.
type operationConfig struct {
	Name          string      `toml:"name"`
	Exec          []string    `toml:"exec,omitempty"`
	HTTP          string      `toml:"http,omitempty"`
	Method        string      `toml:"method,omitempty"` // of HTTP
	Credential    string      `toml:"credential,omitempty"`
	Type          call.OpType `toml:"type"`
	Input         string      `toml:"input,omitempty"`
	Output        string      `toml:"output,omitempty"`
	Scopes        []string    `toml:"scopes"`
	Timeout       duration    `toml:"timeout,omitempty"`
	MaxOutput     size        `toml:"max_output,omitempty"`
	MaxConcurrent int         `toml:"max_concurrent,omitempty"`
	InputSchema   any         `toml:"input_schema,omitempty"`
	OutputSchema  any         `toml:"output_schema,omitempty"`
}

// configError is what is wrong with a configuration, and where.
type configError struct {
	file         string
	line, column int // 0: nowhere in particular
	text         string
	source       string // the line itself
}

// Error implements error, as in
// `config.toml:3:1: unknown key "lisen"; did you mean "listen"?`.
func (e *configError) Error() string {
	if e.line == 0 {
		return e.file + ": " + e.text
	}
	return fmt.Sprintf("%s:%d:%d: %s", e.file, e.line, e.column, e.text)
}

// excerpt is the line with a caret below the place, for people. A value that may
// hold a password is left out.
func (e *configError) excerpt() string {
	if e.line == 0 {
		return ""
	}
	number, source, at := strconv.Itoa(e.line), oneLine(e.source), max(0, e.column-1)
	if mayHoldPassword(source) {
		key, _, ok := strings.Cut(source, "=")
		if notOfKey := func(c rune) bool { return !isKeyRune(c) }; !ok || strings.ContainsFunc(key, notOfKey) {
			key = "" // the line goes on with a value that began before
		} else {
			key += "= "
		}
		source, at = key+"…", min(at, len(key))
	}
	return fmt.Sprintf(" %s | %s\n %*s | %s^", number, source, len(number), "", strings.Repeat(" ", at))
}

// mayHoldPassword tells of a line that it may hold a password: of a proxy, or
// within a URL.
func mayHoldPassword(line string) bool {
	return strings.Contains(line, "@") || strings.Contains(line, "://") || strings.Contains(strings.ToLower(line), "prox")
}

// isKeyRune tells what a key is made of that is not quoted, and what stands
// around it.
func isKeyRune(c rune) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune("_-. ", c)
}

// readConfig reads a file; one that is not there is an empty one.
func readConfig(file string) (*config, error) {
	text, err := readAtMost(file, maxConfig+1)
	if errors.Is(err, fs.ErrNotExist) {
		return &config{places: places{file: file}}, nil
	}
	if err != nil {
		return nil, failf(exitUsage, codeConfig, "%s", err)
	}
	if len(text) > maxConfig {
		return nil, failf(exitUsage, codeConfig, "%s is larger than %d bytes", file, maxConfig)
	}
	return parseConfig(file, text)
}

// parseConfig reads the text of a file. Its errors are *configError.
func parseConfig(file string, text []byte) (*config, error) {
	c := &config{places: places{file: file, text: text}}
	decoder := toml.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	err := decoder.Decode(c)
	var unknown *toml.StrictMissingError
	var bad *toml.DecodeError
	switch {
	case err == nil:
		c.places.find()
		return c, c.check()
	case errors.As(err, &unknown) && len(unknown.Errors) > 0:
		first := unknown.Errors[0]
		key := first.Key()
		line, column := first.Position()
		return nil, c.places.at(line, column, unknownKey(key))
	case errors.As(err, &bad):
		line, column := bad.Position()
		return nil, c.places.at(line, column, strings.TrimPrefix(bad.Error(), "toml: "))
	}
	return nil, c.places.at(0, 0, strings.TrimPrefix(err.Error(), "toml: "))
}

// unknownKey says which key is not known and which was meant.
func unknownKey(key toml.Key) string {
	last, known := key[len(key)-1], tomlKeys(reflect.TypeFor[config]())
	if len(key) > 1 && key[0] == "operation" {
		known = tomlKeys(reflect.TypeFor[operationConfig]())
	}
	text := fmt.Sprintf("unknown key %q", last)
	if like := nearest(last, known); like != "" {
		text += fmt.Sprintf("; did you mean %q?", like)
	}
	return text
}

func tomlKeys(t reflect.Type) []string {
	var keys []string
	for field := range t.Fields() {
		if name, _, _ := strings.Cut(field.Tag.Get("toml"), ","); name != "" {
			keys = append(keys, name)
		}
	}
	return keys
}

// check refuses what TOML can say and the node cannot do.
func (c *config) check() error {
	names := map[string]bool{}
	for i := range c.Operations {
		o := &c.Operations[i]
		fail := func(key, format string, args ...any) error {
			return c.places.of(i, key, fmt.Sprintf(format, args...))
		}
		switch {
		case o.Name == "":
			return fail("", "an operation needs a name")
		case names[o.Name]:
			return fail("name", "operation %s stands here twice", o.Name)
		case o.HTTP != "" && o.Exec != nil:
			return fail("http", "operation %s: exec and http exclude each other", o.Name)
		case o.HTTP == "" && o.Exec == nil:
			return fail("name", "operation %s needs exec or http", o.Name)
		case o.HTTP == "" && o.Method != "":
			return fail("method", "operation %s: method is for http", o.Name)
		}
		names[o.Name] = true
	}
	if err := c.checkAdmission(); err != nil {
		return err
	}
	_, err := c.operations(nil)
	return err
}

func (c *config) checkAdmission() error {
	if c.Admission != "" {
		if _, err := auth.ParseAdmit(string(c.Admission)); err != nil {
			return c.places.key(fmt.Sprintf("admission %q %s", c.Admission, err), "admission")
		}
	}
	for _, alpn := range slices.Sorted(maps.Keys(c.AdmissionALPN)) {
		admit := c.AdmissionALPN[alpn]
		if _, err := auth.ParseAdmit(string(admit)); err != nil {
			return c.places.key(fmt.Sprintf("admission %q of %s %s", admit, alpn, err), "admission_alpn", alpn)
		}
	}
	return nil
}

// operations makes what the file declares.
func (c *config) operations(log *slog.Logger) ([]call.Operation, error) {
	ops := make([]call.Operation, len(c.Operations))
	for i := range c.Operations {
		var err error
		if ops[i], err = c.operation(i, log); err != nil {
			return nil, err
		}
	}
	return ops, nil
}

func (c *config) operation(i int, log *slog.Logger) (call.Operation, error) {
	o := &c.Operations[i]
	in, err := c.schema(o.InputSchema)
	if err != nil {
		return call.Operation{}, c.places.of(i, "input_schema", fmt.Sprintf("operation %s: %s", o.Name, err))
	}
	out, err := c.schema(o.OutputSchema)
	if err != nil {
		return call.Operation{}, c.places.of(i, "output_schema", fmt.Sprintf("operation %s: %s", o.Name, err))
	}
	var op call.Operation
	if o.HTTP != "" {
		op, err = adapt.FromJSONSchema(adapt.JSONSchemaConfig{
			Name: o.Name, URL: o.HTTP, Method: o.Method, Type: o.Type, Visibility: call.External,
			Input: adapt.Input(o.Input), Output: adapt.Output(o.Output), InputSchema: in, OutputSchema: out,
			Credential: o.Credential, Scopes: o.Scopes, Timeout: o.Timeout.Duration,
			MaxOutput: int(o.MaxOutput.bytes), MaxConcurrent: o.MaxConcurrent, Logger: log,
		})
	} else {
		op, err = adapt.Exec(adapt.ExecConfig{
			Name: o.Name, Argv: o.Exec, Type: o.Type,
			Input: adapt.Input(o.Input), Output: adapt.Output(o.Output), InputSchema: in, OutputSchema: out,
			Credential: o.Credential, Scopes: o.Scopes, Timeout: o.Timeout.Duration,
			MaxOutput: int(o.MaxOutput.bytes), MaxConcurrent: o.MaxConcurrent, Logger: log,
		})
	}
	if err != nil {
		return call.Operation{}, c.places.of(i, faultyKey(err), err.Error())
	}
	// Register knows the rules for names and schemas.
	if err := call.NewRegistry().Register(op); err != nil {
		return call.Operation{}, c.places.of(i, "name", err.Error())
	}
	return op, nil
}

// faultyKey is the key of the file that an error of package adapt speaks of.
func faultyKey(err error) string {
	var field *adapt.FieldError
	if !errors.As(err, &field) {
		return "name"
	}
	switch field.Field {
	case "Argv":
		return "exec"
	case "URL":
		return "http"
	case "MaxOutput":
		return "max_output"
	case "MaxConcurrent":
		return "max_concurrent"
	}
	return strings.ToLower(field.Field)
}

// What is read of a configuration, and of a schema file, in bytes.
const (
	maxConfig = 4 << 20
	maxSchema = 256 << 10
)

// schema turns a schema, a table or {file = "…"}, into JSON.
func (c *config) schema(v any) (json.RawMessage, error) {
	table, ok := v.(map[string]any)
	switch {
	case v == nil:
		return nil, nil
	case !ok:
		return nil, errors.New("a schema is a table, or { file = \"…\" }")
	}
	name, ok := table["file"].(string)
	if !ok || len(table) != 1 {
		return json.Marshal(table)
	}
	if !filepath.IsAbs(name) {
		name = filepath.Join(filepath.Dir(c.places.file), name)
	}
	b, err := readAtMost(name, maxSchema+1)
	switch {
	case err != nil:
		return nil, err
	case len(b) > maxSchema:
		return nil, fmt.Errorf("%s is larger than %d bytes", name, maxSchema)
	case !json.Valid(b):
		return nil, fmt.Errorf("%s is not JSON", name)
	}
	return b, nil
}

// places remembers where in the file the operations and the keys stand.
type places struct {
	file       string
	text       []byte
	keys       map[string]unstable.Position // by path, joined by zero bytes
	operations []operationPlace
}

type operationPlace struct {
	header unstable.Position
	keys   map[string]unstable.Position
}

// find walks the text, which has been decoded without a fault before.
func (p *places) find() {
	parser := unstable.Parser{}
	parser.Reset(p.text)
	within := false
	p.keys = map[string]unstable.Position{}
	var table []string
	for parser.NextExpression() {
		e := parser.Expression()
		key := e.Key()
		if !key.Next() {
			continue
		}
		first := key.Node()
		at := parser.Shape(parser.Range(first.Data)).Start
		path := []string{string(first.Data)}
		for key.Next() {
			path = append(path, string(key.Node().Data))
		}
		switch e.Kind {
		case unstable.ArrayTable:
			table = path
			if within = path[0] == "operation"; within {
				p.operations = append(p.operations, operationPlace{at, map[string]unstable.Position{}})
			}
		case unstable.Table:
			table, within = path, false
			p.keys[strings.Join(path, "\x00")] = at
		case unstable.KeyValue:
			if within {
				p.operations[len(p.operations)-1].keys[path[0]] = at
				continue
			}
			p.keys[strings.Join(append(slices.Clone(table), path...), "\x00")] = at
		}
	}
}

// key is an error at the key of that path, or at what holds it.
func (p *places) key(text string, path ...string) error {
	for n := len(path); n > 0; n-- {
		if at, ok := p.keys[strings.Join(path[:n], "\x00")]; ok {
			return p.at(at.Line, at.Column, text)
		}
	}
	return p.at(0, 0, text)
}

// of is an error at a key of the i-th operation, or at the operation itself.
func (p *places) of(i int, key, text string) error {
	if i >= len(p.operations) {
		return p.at(0, 0, text)
	}
	at, ok := p.operations[i].keys[key]
	if !ok {
		at = p.operations[i].header
	}
	return p.at(at.Line, at.Column, text)
}

func (p *places) at(line, column int, text string) error {
	e := &configError{file: p.file, line: line, column: column, text: oneLine(text)}
	if lines := strings.Split(string(p.text), "\n"); line > 0 && line <= len(lines) {
		e.source = strings.TrimSuffix(lines[line-1], "\r")
	}
	return e
}

// duration is a time such as "30s" or "2m".
type duration struct{ time.Duration }

// MarshalText implements encoding.TextMarshaler.
//
//nolint:unparam // the interface has the error
func (d duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil || v < 0 {
		return fmt.Errorf("%q is no duration such as \"30s\"", text)
	}
	d.Duration = v
	return nil
}

// size is a number of bytes such as "64KiB" or "1MiB".
type size struct{ bytes int64 }

// MarshalText implements encoding.TextMarshaler.
//
//nolint:unparam // the interface has the error
func (s size) MarshalText() ([]byte, error) {
	return []byte(withUnit(s.bytes, 1<<10, "KiB", "MiB", "GiB")), nil
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *size) UnmarshalText(text []byte) error {
	number, factor := string(text), int64(1)
	for unit, f := range map[string]int64{"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30} {
		if n, ok := strings.CutSuffix(number, unit); ok {
			number, factor = n, f
			break
		}
	}
	n, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(number, "B")), 10, 64)
	if err != nil || n <= 0 || n > math.MaxInt32/factor {
		return fmt.Errorf("%q is no size such as \"1MiB\"", text)
	}
	s.bytes = n * factor
	return nil
}

// bitRate is a rate such as "10Mbit"; "0" is no limit.
type bitRate struct {
	perSecond int64
	set       bool
}

// MarshalText implements encoding.TextMarshaler.
//
//nolint:unparam // the interface has the error
func (r bitRate) MarshalText() ([]byte, error) {
	return []byte(withUnit(r.perSecond, 1000, "kbit", "Mbit", "Gbit")), nil
}

// withUnit writes a number in the largest unit that divides it.
func withUnit(n, step int64, units ...string) string {
	unit := ""
	for _, larger := range units {
		if n == 0 || n%step != 0 {
			break
		}
		n, unit = n/step, larger
	}
	return strconv.FormatInt(n, 10) + unit
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (r *bitRate) UnmarshalText(text []byte) error {
	number, factor := strings.TrimSuffix(string(text), "/s"), int64(1)
	for unit, f := range map[string]int64{"kbit": 1e3, "Mbit": 1e6, "Gbit": 1e9} {
		if n, ok := strings.CutSuffix(number, unit); ok {
			number, factor = n, f
			break
		}
	}
	n, err := strconv.ParseInt(strings.TrimSpace(number), 10, 64)
	if err != nil || n < 0 || n > math.MaxInt64/factor {
		return fmt.Errorf("%q is no rate such as \"10Mbit\"", text)
	}
	*r = bitRate{n * factor, true}
	return nil
}

// disclose is who may learn this node's addresses by dialling it over a relay:
// "any" (PATH-13), or "known" peers only.
type disclose struct{ known, set bool }

// MarshalText implements encoding.TextMarshaler.
//
//nolint:unparam // the interface has the error
func (d disclose) MarshalText() ([]byte, error) {
	if d.known {
		return []byte("known"), nil
	}
	return []byte("any"), nil
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *disclose) UnmarshalText(text []byte) error {
	switch string(text) {
	case "any", "known":
		*d = disclose{known: string(text) == "known", set: true}
		return nil
	}
	return fmt.Errorf("%q is neither any nor known", text)
}

// publish is what the address record says: "relays", or "addresses" too.
type publish struct{ addresses bool }

// MarshalText implements encoding.TextMarshaler.
//
//nolint:unparam // the interface has the error
func (p publish) MarshalText() ([]byte, error) {
	if p.addresses {
		return []byte("addresses"), nil
	}
	return []byte("relays"), nil
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (p *publish) UnmarshalText(text []byte) error {
	switch string(text) {
	case "relays", "addresses":
		p.addresses = string(text) == "addresses"
		return nil
	}
	return fmt.Errorf("%q is neither \"relays\" nor \"addresses\"", text)
}
