// Package mnemonic is BIP-39 for the English word list, over byte slices that
// the caller can wipe. It wraps go-bip39, which does words and checksum, and
// adds what that leaves out: one canonical form of a phrase, NFKD, and errors
// that never repeat a word.
package mnemonic

import (
	"bytes"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"slices"
	"unicode/utf8"
	"unsafe"

	"github.com/tyler-smith/go-bip39"
	"github.com/tyler-smith/go-bip39/wordlists"
	"golang.org/x/text/unicode/norm"

	"github.com/alkdev/alknet-p2p/vault/internal/hmac"
	"github.com/alkdev/alknet-p2p/vault/internal/wipe"
)

const (
	// SeedSize is the length of a seed.
	SeedSize = 64
	// MaxText is the longest text that Parse reads, in bytes.
	MaxText = 4096
	// MaxPassphrase is the longest passphrase that Seed takes, in bytes.
	MaxPassphrase = 4096

	maxPhrase = 24*8 + 23 // 24 words of at most 8 letters, single spaces
	rounds    = 2048
	// maxNFKD is the growth of UTF-8 under NFKD: U+FDFA, 3 bytes, becomes 33.
	maxNFKD = 11
)

// Errors of this package. None carries any part of a phrase or passphrase.
var (
	ErrWords         = errors.New("a phrase has 12, 15, 18, 21 or 24 words")
	ErrChecksum      = errors.New("checksum does not match: a word is wrong or out of order")
	ErrTooLong       = errors.New("input is too long")
	ErrPassphraseUTF = errors.New("passphrase is not UTF-8")
)

// New returns a fresh phrase of 12, 15, 18, 21 or 24 words, in canonical form.
// The caller wipes it.
func New(words int) ([]byte, error) {
	if !validCount(words) {
		return nil, ErrWords
	}
	entropy := make([]byte, words/3*4)
	defer wipe.Bytes(entropy)
	rand.Read(entropy) // never fails
	return FromEntropy(entropy)
}

// FromEntropy returns the canonical phrase that encodes 16, 20, 24, 28 or 32
// bytes of entropy. The caller wipes it.
func FromEntropy(entropy []byte) ([]byte, error) {
	text, err := bip39.NewMnemonic(entropy) // a string, which stays until it is collected
	if err != nil {
		return nil, ErrWords
	}
	phrase := []byte(text)
	defer wipe.Bytes(phrase)
	// Parse again: go-bip39's word list is a variable that any package in the
	// process can replace.
	return Parse(phrase)
}

// Parse reads a phrase as people type it, and returns its canonical form: the
// words in lower case, joined by one space each. Text is taken through NFKD and
// split at runs of Unicode white space. The checksum must match. The caller
// wipes the result; text is not kept.
func Parse(text []byte) ([]byte, error) {
	if len(text) > MaxText {
		return nil, ErrTooLong
	}
	decomposed := nfkd(text)
	defer wipe.Bytes(decomposed)
	for i, c := range decomposed {
		if 'A' <= c && c <= 'Z' {
			decomposed[i] = c + 'a' - 'A'
		}
	}
	words := bytes.Fields(decomposed)
	if !validCount(len(words)) {
		return nil, fmt.Errorf("%w, not %d", ErrWords, len(words))
	}
	phrase := make([]byte, 0, maxPhrase)
	for i, word := range words {
		if !listed(word) {
			wipe.Bytes(phrase)
			return nil, fmt.Errorf("word %d of %d is not in the English word list", i+1, len(words))
		}
		if i > 0 {
			phrase = append(phrase, ' ')
		}
		phrase = append(phrase, word...)
	}
	// A string over our own buffer: a conversion would leave a copy of the
	// phrase that cannot be wiped. go-bip39 keeps no part of it.
	//nolint:gosec // G103: phrase is not empty and does not change during the call
	entropy, err := bip39.EntropyFromMnemonic(unsafe.String(&phrase[0], len(phrase)))
	wipe.Bytes(entropy)
	if err != nil {
		wipe.Bytes(phrase)
		return nil, ErrChecksum
	}
	return phrase, nil
}

// Seed stretches a canonical phrase and a passphrase into a seed: PBKDF2 with
// HMAC-SHA512, salt "mnemonic" and the passphrase in NFKD, 2048 rounds. A nil
// passphrase is the same as an empty one; it is not trimmed and must be UTF-8.
// The caller wipes the seed.
func Seed(phrase, passphrase []byte) ([]byte, error) {
	if err := checkPassphrase(passphrase); err != nil {
		return nil, err
	}
	salt := nfkd(passphrase)
	defer wipe.Bytes(salt)
	return stretch(phrase, salt), nil
}

// SeedAsIs is Seed without NFKD of the passphrase, which BIP-39 does not allow:
// for seeds that were made so.
func SeedAsIs(phrase, passphrase []byte) ([]byte, error) {
	if err := checkPassphrase(passphrase); err != nil {
		return nil, err
	}
	return stretch(phrase, passphrase), nil
}

func checkPassphrase(passphrase []byte) error {
	if len(passphrase) > MaxPassphrase {
		return fmt.Errorf("passphrase: %w", ErrTooLong)
	}
	if !utf8.Valid(passphrase) {
		return ErrPassphraseUTF
	}
	return nil
}

// stretch is one block of PBKDF2, since a seed is as long as the hash. The
// standard library's takes the password as a string.
func stretch(phrase, salt []byte) []byte {
	mac := hmac.New(phrase)
	defer mac.Wipe()
	block := make([]byte, SeedSize)
	defer wipe.Bytes(block)
	mac.Sum(block, []byte("mnemonic"), salt, []byte{0, 0, 0, 1})
	seed := slices.Clone(block)
	for range rounds - 1 {
		mac.Sum(block, block)
		subtle.XORBytes(seed, seed, block)
	}
	return seed
}

func validCount(words int) bool {
	return words >= 12 && words <= 24 && words%3 == 0
}

// listed reports whether word is in the English list, which is sorted.
func listed(word []byte) bool {
	_, found := slices.BinarySearchFunc(wordlists.English, word, func(have string, want []byte) int {
		return bytes.Compare([]byte(have), want)
	})
	return found
}

// nfkd returns text in NFKD, in a new buffer that is large enough from the
// start, so that no copy is left behind by growing it.
func nfkd(text []byte) []byte {
	return norm.NFKD.Append(make([]byte, 0, maxNFKD*len(text)), text...)
}
