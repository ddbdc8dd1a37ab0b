package vault

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"time"
)

const (
	payloadFormat  = "alknet-vault/1"
	payloadProfile = "slip10"
	maxPayload     = 4096
)

// payload is what the vault file seals.
type payload struct {
	phrase             *Mnemonic
	hasBIP39Passphrase bool
	identity           string
	device, generation uint32
	created            time.Time
}

// encode returns the payload as JSON and a line feed. The caller wipes it. It is
// put together by hand, in one buffer: an encoder would keep copies of the
// phrase. No value needs escaping.
func (p payload) encode() ([]byte, error) {
	b := make([]byte, 0, maxPayload)
	b = append(b, `{"format":"`+payloadFormat+`","mnemonic":"`...)
	if err := p.phrase.Use(func(phrase []byte) { b = append(b, phrase...) }); err != nil {
		return nil, err
	}
	b = append(b, `","bip39_passphrase":`...)
	b = strconv.AppendBool(b, p.hasBIP39Passphrase)
	b = append(b, `,"profile":"`+payloadProfile+`","identity":"`...)
	b = append(b, p.identity...)
	b = append(b, `","device":`...)
	b = strconv.AppendUint(b, uint64(p.device), 10)
	b = append(b, `,"generation":`...)
	b = strconv.AppendUint(b, uint64(p.generation), 10)
	b = append(b, `,"created":"`...)
	b = p.created.UTC().AppendFormat(b, time.RFC3339)
	b = append(b, '"', '}', '\n')
	return b, nil
}

// decodePayload reads a payload. Members that it does not know are ignored; a
// format or profile that it does not know is ErrUnsupported. The caller wipes
// the phrase and data.
func decodePayload(data []byte) (*payload, error) {
	o, err := parseObject(data)
	if err != nil {
		return nil, err
	}
	defer wipeObject(o)
	if err := expect(o, "format", payloadFormat); err != nil {
		return nil, err
	}
	if err := expect(o, "profile", payloadProfile); err != nil {
		return nil, err
	}
	var p payload
	if p.hasBIP39Passphrase, err = member[bool](o, "bip39_passphrase"); err != nil {
		return nil, err
	}
	if p.identity, err = member[string](o, "identity"); err != nil {
		return nil, err
	}
	if _, ok := parseFingerprint(p.identity); !ok {
		return nil, fmt.Errorf("%q is not ed25519: and 64 lower-case hex digits", "identity")
	}
	if p.device, err = member[uint32](o, "device"); err != nil {
		return nil, err
	}
	if p.generation, err = member[uint32](o, "generation"); err != nil {
		return nil, err
	}
	if _, err := IdentityPath(p.device, p.generation); err != nil {
		return nil, err
	}
	created, err := member[string](o, "created")
	if err != nil {
		return nil, err
	}
	if p.created, err = time.Parse(time.RFC3339, created); err != nil {
		return nil, fmt.Errorf("%q is not a time of RFC 3339", "created")
	}
	if p.phrase, err = phraseMember(o); err != nil {
		return nil, err
	}
	return &p, nil
}

// expect reads a member that selects how to read the rest.
func expect(o object, name, want string) error {
	have, err := member[string](o, name)
	if err != nil {
		return err
	}
	if have != want {
		return fmt.Errorf("%w: %q is not %q", ErrUnsupported, name, want)
	}
	return nil
}

// phraseMember reads the phrase from the raw member, so that it never becomes a
// string.
func phraseMember(o object) (*Mnemonic, error) {
	raw, quote := o["mnemonic"], []byte(`"`)
	text, opened := bytes.CutPrefix(raw, quote)
	text, closed := bytes.CutSuffix(text, quote)
	if !opened || !closed || slices.Contains(text, '\\') {
		return nil, fmt.Errorf("%q is missing or no plain string", "mnemonic")
	}
	return ParseMnemonic(text)
}
