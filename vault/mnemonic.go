package vault

import (
	"fmt"

	"github.com/alkdev/alknet-p2p/vault/internal/mnemonic"
)

// DefaultWords is the number of words of a new phrase.
const DefaultWords = 24

// Mnemonic is a BIP-39 phrase of English words, the root secret of a node. It
// shows as [REDACTED] wherever it is printed or marshalled. Copies share one
// phrase. It is safe for concurrent use.
type Mnemonic struct {
	redacted
	phrase secret
}

// NewMnemonic makes a phrase of 12, 15, 18, 21 or 24 words from the system's
// random source; any other number is ErrMnemonic. The caller wipes it.
func NewMnemonic(words int) (*Mnemonic, error) {
	phrase, err := mnemonic.New(words)
	return wrapPhrase(phrase, err)
}

// ParseMnemonic reads a phrase: words in either case, separated by any white
// space. ErrMnemonic says which word is unknown by its position, never by the
// word. The caller wipes the result, and text, which is not kept.
func ParseMnemonic(text []byte) (*Mnemonic, error) {
	phrase, err := mnemonic.Parse(text)
	return wrapPhrase(phrase, err)
}

// Use calls f with the canonical phrase: lower case, one space between words.
// f must not keep or change the slice, nor call Use or Wipe of this mnemonic.
// After Wipe f is not called and the error is ErrWiped.
func (m Mnemonic) Use(f func(phrase []byte)) error { return m.phrase.use(f) }

// Wipe overwrites the phrase. It may be called again.
func (m Mnemonic) Wipe() { m.phrase.wipe() }

// seed stretches the phrase with a BIP-39 passphrase; the caller wipes it.
func (m Mnemonic) seed(passphrase []byte) ([]byte, error) {
	return m.stretch(mnemonic.Seed, passphrase)
}

func (m Mnemonic) stretch(with func(phrase, passphrase []byte) ([]byte, error), passphrase []byte) (seed []byte, err error) {
	useErr := m.Use(func(phrase []byte) { seed, err = with(phrase, passphrase) })
	if useErr != nil {
		err = useErr
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMnemonic, err)
	}
	return seed, nil
}

func wrapPhrase(phrase []byte, err error) (*Mnemonic, error) {
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMnemonic, err)
	}
	return &Mnemonic{phrase: newSecret(phrase)}, nil
}
