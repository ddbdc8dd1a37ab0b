package auth

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// Limits of a Config; beyond them it does not validate.
const (
	maxConfigBytes = 16 << 20
	maxText        = 256
	minKeyPrefix   = 5

	defaultMaxConnectionsPerIP = 100
	defaultMaxAuthAttempts     = 5
)

// Config is the part of a node's configuration that may change while it runs:
// who the peers are, which API keys exist, the rate limits, and who is
// admitted. Its JSON form is the file peers.json (NODE-35). The zero value is a registry without
// peers and with the default limits.
type Config struct {
	Auth       Policy     `json:"auth"`
	RateLimits RateLimits `json:"rate_limits"`
	// Admission says who may have sessions; the zero value leaves it to the
	// node's own setting.
	Admission Admission `json:"admission,omitzero"`
}

// Policy lists who is recognised.
type Policy struct {
	Peers   []PeerEntry   `json:"peers"`
	APIKeys []APIKeyEntry `json:"api_keys"`
}

// RateLimits bound what strangers may cost (NODE-34).
type RateLimits struct {
	// MaxConnectionsPerIP; 0 = 100.
	MaxConnectionsPerIP int `json:"max_connections_per_ip"`
	// MaxAuthAttempts is how many failed tokens one session may send; 0 = 5.
	MaxAuthAttempts int `json:"max_auth_attempts"`
}

// PeerEntry is one peer of the registry. A key is rotated by editing
// Fingerprints: name, scopes and routes stay (NODE-26).
type PeerEntry struct {
	// PeerName is the peer's logical name, unique.
	PeerName PeerName `json:"peer_id"`
	// Fingerprints are its keys, "ed25519:<64 hex>", or certificates,
	// "SHA256:<64 hex>"; any match resolves, dialling tries them in order.
	Fingerprints []string `json:"fingerprints"`
	// AuthTokenHash is the hash of a token that is this peer too; nil = none.
	AuthTokenHash *string `json:"auth_token_hash"`
	// Scopes and Resources are the peer's rights.
	Scopes    []string            `json:"scopes"`
	Resources map[string][]string `json:"resources"`
	// DisplayName is for people; nil = none.
	DisplayName *string `json:"display_name"`
	// Enabled: absent in JSON means true. A disabled peer resolves to nothing.
	Enabled bool `json:"enabled"`
	// Next is what the peer has committed to as its next key, "sha256:" and
	// the hex SHA-256 of "alknet-next-v1" and the key; "" = not known.
	Next string `json:"next,omitempty"`
	// Follow lets a proven hand-over to the committed key edit Fingerprints.
	Follow bool `json:"follow,omitzero"`
	// Until holds, for fingerprints that the peer has handed over, the Unix
	// second from which on they are nobody's.
	Until map[string]uint64 `json:"until,omitempty"`
}

// APIKeyEntry is a token that is an identity of its own, with no resources;
// a new token is a new identity (NODE-24).
type APIKeyEntry struct {
	// Prefix is the beginning of the token, 5 to 8 characters starting with
	// "alk_". It is the identity's ID and may be logged.
	Prefix string `json:"prefix"`
	// Hash of the whole token.
	Hash string `json:"hash"`
	// Scopes are the key's rights.
	Scopes []string `json:"scopes"`
	// Description is for people.
	Description string `json:"description"`
	// ExpiresAt in Unix seconds: from that second on the key is void; nil =
	// never.
	ExpiresAt *uint64 `json:"expires_at"`
}

// FieldError is one field of a Config that cannot stand.
type FieldError struct {
	// Pointer is the field as a JSON pointer (RFC 6901), such as
	// /auth/peers/0/fingerprints/1; "" when the text is no JSON at all.
	Pointer string
	// Entry names the peer or API key the field belongs to; "" if none.
	Entry string
	// Line and Column are 1-based in the text the Config was read from; 0 for
	// a Config that was not read from text.
	Line, Column int
	// Err is what is wrong.
	Err error
}

// Error implements error, as in
// `auth.peers[0].fingerprints[1] (worker-a): listed in peer worker-b too`.
// Where the text stands is for the reader of the file to add.
func (e *FieldError) Error() string {
	var b strings.Builder
	b.WriteString(fieldName(e.Pointer))
	if e.Entry != "" {
		fmt.Fprintf(&b, " (%s)", e.Entry)
	}
	if b.Len() > 0 {
		b.WriteString(": ")
	}
	b.WriteString(e.Err.Error())
	return b.String()
}

// Unwrap returns Err.
func (e *FieldError) Unwrap() error { return e.Err }

// ParseConfig reads and validates the JSON form. It refuses unknown and
// repeated fields; every error is a *FieldError that says where.
func ParseConfig(text []byte) (*Config, error) {
	if len(text) > maxConfigBytes {
		return nil, &FieldError{Line: 1, Column: 1, Err: fmt.Errorf("larger than %d bytes", maxConfigBytes)}
	}
	var c Config
	if err := json.Unmarshal(text, &c, json.RejectUnknownMembers(true)); err != nil {
		return nil, decodeError(text, &c, err)
	}
	if err := c.Validate(); err != nil {
		if field, ok := errors.AsType[*FieldError](err); ok {
			field.Line, field.Column = position(text, offsetOf(text, jsontext.Pointer(field.Pointer)))
		}
		return nil, err
	}
	return &c, nil
}

// Append writes the JSON form of the Config, indented and ending in a
// newline, so that people can read and diff it.
func (c *Config) Append(b []byte) ([]byte, error) {
	filled := *c
	filled.RateLimits = c.RateLimits.withDefaults()
	out, err := json.Marshal(&filled, json.Deterministic(true), jsontext.WithIndent("  "))
	if err != nil {
		return b, fmt.Errorf("encode peers: %w", err)
	}
	return append(append(b, out...), '\n'), nil
}

// Clone returns a deep copy.
func (c *Config) Clone() *Config {
	out := *c
	out.Admission.ALPNs = maps.Clone(c.Admission.ALPNs)
	out.Auth.Peers = slices.Clone(c.Auth.Peers)
	for i := range out.Auth.Peers {
		out.Auth.Peers[i] = c.Auth.Peers[i].Clone()
	}
	out.Auth.APIKeys = slices.Clone(c.Auth.APIKeys)
	for i := range out.Auth.APIKeys {
		k := &out.Auth.APIKeys[i]
		k.Scopes = slices.Clone(k.Scopes)
		k.ExpiresAt = clonePointer(k.ExpiresAt)
	}
	return &out
}

// Clone returns a deep copy.
func (e PeerEntry) Clone() PeerEntry {
	e.Fingerprints = slices.Clone(e.Fingerprints)
	e.AuthTokenHash = clonePointer(e.AuthTokenHash)
	e.Scopes = slices.Clone(e.Scopes)
	e.Resources = cloneResources(e.Resources)
	e.DisplayName = clonePointer(e.DisplayName)
	e.Until = maps.Clone(e.Until)
	return e
}

// UnmarshalJSONFrom reads an entry; an absent or null enabled is true.
func (e *PeerEntry) UnmarshalJSONFrom(d *jsontext.Decoder) error {
	type plain PeerEntry
	in := struct {
		*plain
		Enabled *bool `json:"enabled"`
	}{plain: (*plain)(e)}
	if err := json.UnmarshalDecode(d, &in); err != nil {
		return err
	}
	e.Enabled = in.Enabled == nil || *in.Enabled
	return nil
}

// Validate checks the whole Config (NODE-27) and returns the first fault as a
// *FieldError.
func (c *Config) Validate() error {
	v := validator{
		names:        map[PeerName]int{},
		fingerprints: map[string]string{},
		hashes:       map[string]string{},
	}
	for i := range c.Auth.Peers {
		if err := v.peer(i, &c.Auth.Peers[i]); err != nil {
			return err
		}
	}
	for i := range c.Auth.APIKeys {
		if err := v.apiKey(i, &c.Auth.APIKeys[i]); err != nil {
			return err
		}
	}
	for name, n := range map[string]int{
		"max_connections_per_ip": c.RateLimits.MaxConnectionsPerIP,
		"max_auth_attempts":      c.RateLimits.MaxAuthAttempts,
	} {
		if n < 0 {
			return &FieldError{Pointer: "/rate_limits/" + name, Err: errors.New("is negative")}
		}
	}
	return c.Admission.validate()
}

// withDefaults fills the limits that are zero.
func (r RateLimits) withDefaults() RateLimits {
	if r.MaxConnectionsPerIP == 0 {
		r.MaxConnectionsPerIP = defaultMaxConnectionsPerIP
	}
	if r.MaxAuthAttempts == 0 {
		r.MaxAuthAttempts = defaultMaxAuthAttempts
	}
	return r
}

// validator remembers what occurs in one entry only, and in which.
type validator struct {
	names        map[PeerName]int
	fingerprints map[string]string
	hashes       map[string]string
}

func (v *validator) peer(i int, e *PeerEntry) error {
	fail := func(field string, err error) error {
		return &FieldError{Pointer: fmt.Sprintf("/auth/peers/%d/%s", i, field), Entry: entryText(string(e.PeerName)), Err: err}
	}
	if _, err := ParsePeerName(string(e.PeerName)); err != nil {
		return fail("peer_id", err)
	}
	if j, dup := v.names[e.PeerName]; dup {
		return fail("peer_id", fmt.Errorf("the name stands in auth.peers[%d] too", j))
	}
	v.names[e.PeerName] = i
	for k, fp := range e.Fingerprints {
		field := "fingerprints/" + strconv.Itoa(k)
		if err := checkFingerprint(fp); err != nil {
			return fail(field, err)
		}
		if owner, dup := v.fingerprints[fp]; dup {
			return fail(field, fmt.Errorf("listed in peer %s already", owner))
		}
		v.fingerprints[fp] = string(e.PeerName)
	}
	if e.AuthTokenHash != nil {
		if err := v.hash(*e.AuthTokenHash, "peer "+string(e.PeerName)); err != nil {
			return fail("auth_token_hash", err)
		}
	}
	if k, err := checkTexts(e.Scopes); err != nil {
		return fail("scopes/"+strconv.Itoa(k), err)
	}
	for _, typ := range slices.Sorted(maps.Keys(e.Resources)) {
		field := "resources/" + escapePointer(typ)
		if err := CheckScope(typ); err != nil {
			return fail(field, err)
		}
		if k, err := checkTexts(e.Resources[typ]); err != nil {
			return fail(field+"/"+strconv.Itoa(k), err)
		}
	}
	if e.DisplayName != nil {
		if err := checkLabel(*e.DisplayName); err != nil {
			return fail("display_name", err)
		}
	}
	if e.Next != "" {
		if _, err := parseTokenHash(e.Next); err != nil {
			return fail("next", err)
		}
	}
	return nil
}

func (v *validator) apiKey(i int, k *APIKeyEntry) error {
	fail := func(field string, err error) error {
		return &FieldError{Pointer: fmt.Sprintf("/auth/api_keys/%d/%s", i, field), Entry: entryText(k.Prefix), Err: err}
	}
	switch {
	case len(k.Prefix) < minKeyPrefix || len(k.Prefix) > tokenPrefixLen:
		return fail("prefix", fmt.Errorf("is not %d to %d characters long", minKeyPrefix, tokenPrefixLen))
	case !strings.HasPrefix(k.Prefix, TokenMark):
		return fail("prefix", fmt.Errorf("does not start with %s", TokenMark))
	case strings.ContainsFunc(k.Prefix, func(c rune) bool { return c == '.' || !isNameChar(c) }):
		return fail("prefix", errors.New("holds other characters than A-Z a-z 0-9 _ -"))
	}
	if err := v.hash(k.Hash, "API key "+k.Prefix); err != nil {
		return fail("hash", err)
	}
	if n, err := checkTexts(k.Scopes); err != nil {
		return fail("scopes/"+strconv.Itoa(n), err)
	}
	if err := checkLabel(k.Description); err != nil {
		return fail("description", err)
	}
	return nil
}

func (v *validator) hash(text, owner string) error {
	if _, err := parseTokenHash(text); err != nil {
		return err
	}
	if other, dup := v.hashes[text]; dup {
		return fmt.Errorf("the hash stands in %s already", other)
	}
	v.hashes[text] = owner
	return nil
}

// checkTexts returns the index of the first text that cannot stand.
func checkTexts(list []string) (int, error) {
	for i, s := range list {
		if err := CheckScope(s); err != nil {
			return i, err
		}
	}
	return 0, nil
}

// CheckScope accepts what may be a scope, a resource or an action: 1 to 256
// bytes that print, without white space. Such words are compared exactly.
func CheckScope(s string) error {
	if s == "" {
		return errors.New("is empty")
	}
	if strings.ContainsFunc(s, unicode.IsSpace) {
		return errors.New("holds white space")
	}
	return checkLabel(s)
}

// checkLabel is for texts shown to people, on terminals too.
func checkLabel(s string) error {
	if len(s) > maxText {
		return fmt.Errorf("is longer than %d bytes", maxText)
	}
	if strings.ContainsFunc(s, func(c rune) bool { return !unicode.IsPrint(c) }) {
		return errors.New("holds characters that do not print")
	}
	return nil
}

// entryText is how an error names an entry whose name may itself be the fault.
func entryText(name string) string {
	if name == "" || len(name) > maxPeerName || CheckScope(name) != nil {
		return ""
	}
	return name
}

func clonePointer[T any](p *T) *T {
	if p == nil {
		return nil
	}
	c := *p
	return &c
}

// decodeError turns what the JSON package says into a FieldError. c holds
// what was read before the fault, which names the entry.
func decodeError(text []byte, c *Config, err error) error {
	var (
		syntax  *jsontext.SyntacticError
		meaning *json.SemanticError
		out     = &FieldError{Err: err}
		offset  int64
	)
	switch {
	case errors.As(err, &syntax):
		out.Pointer, out.Err, offset = string(syntax.JSONPointer), syntax.Err, syntax.ByteOffset
	case errors.As(err, &meaning):
		out.Pointer, offset = string(meaning.JSONPointer), meaning.ByteOffset
		switch {
		case meaning.Err != nil:
			out.Err = meaning.Err
		default:
			out.Err = fmt.Errorf("a JSON %s cannot stand here", meaning.JSONKind)
		}
		if at := offsetOf(text, meaning.JSONPointer); at > 0 {
			offset = at
		}
	}
	switch {
	case errors.Is(err, json.ErrUnknownName):
		out.Err = errors.New("unknown field")
	case errors.Is(err, jsontext.ErrDuplicateName):
		out.Err = errors.New("the field occurs twice")
	}
	var i int
	if n, _ := fmt.Sscanf(out.Pointer, "/auth/peers/%d", &i); n == 1 && i < len(c.Auth.Peers) {
		out.Entry = entryText(string(c.Auth.Peers[i].PeerName))
	}
	out.Line, out.Column = position(text, offset)
	return out
}

// offsetOf finds where the field or element a pointer names begins; for one
// that is absent, what would hold it.
func offsetOf(text []byte, pointer jsontext.Pointer) int64 {
	d := jsontext.NewDecoder(bytes.NewReader(text))
	var (
		around  int64
		deepest jsontext.Pointer
	)
	for {
		from := d.InputOffset()
		if _, err := d.ReadToken(); err != nil {
			return around
		}
		if at := d.StackPointer(); at.Contains(pointer) && len(at) > len(deepest) {
			start := from + int64(len(text[from:])-len(bytes.TrimLeft(text[from:], " \t\r\n,:")))
			if at == pointer {
				return start
			}
			around, deepest = start, at
		}
	}
}

// position counts lines and columns from 1.
func position(text []byte, offset int64) (line, column int) {
	before := text[:min(int(offset), len(text))]
	return 1 + bytes.Count(before, []byte{'\n'}), len(before) - bytes.LastIndexByte(before, '\n')
}

// fieldName writes a JSON pointer the way people write fields.
func fieldName(pointer string) string {
	var b strings.Builder
	for tok := range jsontext.Pointer(pointer).Tokens() {
		if _, err := strconv.Atoi(tok); err == nil {
			fmt.Fprintf(&b, "[%s]", tok)
			continue
		}
		if b.Len() > 0 {
			b.WriteByte('.')
		}
		b.WriteString(strings.Map(func(c rune) rune {
			if unicode.IsPrint(c) {
				return c
			}
			return '?'
		}, tok))
	}
	return b.String()
}

func escapePointer(s string) string {
	return strings.NewReplacer("~", "~0", "/", "~1").Replace(s)
}
