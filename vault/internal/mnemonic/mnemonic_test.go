package mnemonic_test

import (
	"bytes"
	"crypto/pbkdf2"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tyler-smith/go-bip39"
	"github.com/tyler-smith/go-bip39/wordlists"

	"github.com/alkdev/alknet-p2p/vault/internal/mnemonic"
)

const about = "abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon about"

type vector struct{ Entropy, Mnemonic, Seed string }

func vectors(t testing.TB) []vector {
	t.Helper()
	data, err := os.ReadFile("testdata/bip39.json")
	require.NoError(t, err)
	var file struct{ Vectors []vector }
	require.NoError(t, json.Unmarshal(data, &file))
	require.Len(t, file.Vectors, 24)
	return file.Vectors
}

func TestOfficialVectors(t *testing.T) {
	for _, v := range vectors(t) {
		entropy, err := hex.DecodeString(v.Entropy)
		require.NoError(t, err)
		phrase, err := mnemonic.FromEntropy(entropy)
		require.NoError(t, err)
		require.Equal(t, v.Mnemonic, string(phrase))
		phrase, err = mnemonic.Parse([]byte(v.Mnemonic))
		require.NoError(t, err)
		require.Equal(t, v.Mnemonic, string(phrase))
		seed, err := mnemonic.Seed(phrase, []byte("TREZOR"))
		require.NoError(t, err)
		require.Equal(t, v.Seed, hex.EncodeToString(seed))
	}
}

func TestSeedWithoutPassphrase(t *testing.T) {
	const want = "5eb00bbddcf069084889a8ab9155568165f5c453ccb85e70811aaed6f6da5fc19a5ac40b389cd370d086206dec8aa6c43daea6690f20ad3d8d48b2d2ce9e38e4"
	for _, passphrase := range [][]byte{nil, {}} {
		seed, err := mnemonic.Seed([]byte(about), passphrase)
		require.NoError(t, err)
		require.Equal(t, want, hex.EncodeToString(seed))
	}
}

func TestWordList(t *testing.T) {
	require.Len(t, wordlists.English, 2048)
	sum := sha256.Sum256([]byte(strings.Join(wordlists.English, "\n") + "\n"))
	require.Equal(t, "2f5eed53a4727b4bf8880d8f3f199efc90e58503646d9ff8eff3a2ed3b24dbda", hex.EncodeToString(sum[:]))
}

func TestWordCounts(t *testing.T) {
	for words := -1; words <= 30; words++ {
		phrase, err := mnemonic.New(words)
		if words != 12 && words != 15 && words != 18 && words != 21 && words != 24 {
			require.ErrorIs(t, err, mnemonic.ErrWords, words)
			continue
		}
		require.NoError(t, err)
		require.Len(t, bytes.Fields(phrase), words)
		again, err := mnemonic.Parse(phrase)
		require.NoError(t, err)
		require.Equal(t, string(phrase), string(again))
		other, err := mnemonic.New(words)
		require.NoError(t, err)
		require.NotEqual(t, string(phrase), string(other))
	}
	for entropy, last := range map[string]string{
		strings.Repeat("00", 20): "address",
		strings.Repeat("ff", 28): "veteran",
	} {
		b, err := hex.DecodeString(entropy)
		require.NoError(t, err)
		phrase, err := mnemonic.FromEntropy(b)
		require.NoError(t, err)
		require.True(t, strings.HasSuffix(string(phrase), " "+last))
	}
	_, err := mnemonic.FromEntropy(make([]byte, 17))
	require.ErrorIs(t, err, mnemonic.ErrWords)
}

// All these spellings are the phrase `about`, so they must give its seed.
func TestCanonical(t *testing.T) {
	for name, text := range map[string]string{
		"upper case":        strings.ToUpper(about),
		"double spaces":     strings.ReplaceAll(about, " ", "  "),
		"lines":             "\n\t" + strings.ReplaceAll(about, " ", "\r\n") + "\n",
		"ideographic space": strings.ReplaceAll(about, " ", "\u3000"),
		"no-break space":    strings.ReplaceAll(about, " ", "\u00a0"),
		"line separator":    strings.ReplaceAll(about, " ", "\u2028"),
		"full width":        strings.ReplaceAll(about, "abandon", "\uff41\uff42\uff41\uff4e\uff44\uff4f\uff4e"),
		"full width upper":  strings.Replace(about, "about", "\uff21bout", 1),
	} {
		t.Run(name, func(t *testing.T) {
			phrase, err := mnemonic.Parse([]byte(text))
			require.NoError(t, err)
			require.Equal(t, about, string(phrase))
		})
	}
	text := []byte("  ABANDON" + about[len("abandon"):])
	before := string(text)
	_, err := mnemonic.Parse(text)
	require.NoError(t, err)
	require.Equal(t, before, string(text), "the input is left alone")
}

func TestRefused(t *testing.T) {
	abandon := func(n int) string { return strings.TrimSuffix(strings.Repeat("abandon ", n), " ") }
	for name, c := range map[string]struct{ text, want string }{
		"checksum":       {abandon(12), "checksum does not match"},
		"11 words":       {abandon(11), "not 11"},
		"13 words":       {about + " about", "not 13"},
		"no words":       {" \n", "not 0"},
		"unknown word":   {strings.Replace(about, "about", "secretword", 1), "word 12 of 12 is not in"},
		"prefix":         {"aban" + about[len("abandon"):], "word 1 of 12 is not in"},
		"combining mark": {"abandon\u0301" + about[len("abandon"):], "word 1 of 12 is not in"},
		"dotless i":      {abandon(11) + " \u0131dle", "word 12 of 12 is not in"},
		"not UTF-8":      {abandon(11) + " abou\xff", "word 12 of 12 is not in"},
		"zero":           {abandon(11) + "\x00about", "not 11"},
		"comma":          {strings.ReplaceAll(about, " ", ", "), "word 1 of 12 is not in"},
		"too long":       {about + strings.Repeat(" ", mnemonic.MaxText), "too long"},
	} {
		t.Run(name, func(t *testing.T) {
			phrase, err := mnemonic.Parse([]byte(c.text))
			require.ErrorContains(t, err, c.want)
			require.Nil(t, phrase)
			for word := range strings.FieldsSeq(c.text) {
				// "about" and "a" are words of the messages themselves.
				if len(word) > 5 {
					require.NotContains(t, err.Error(), word)
				}
			}
		})
	}
}

func TestPassphrase(t *testing.T) {
	seed := func(passphrase string) string {
		s, err := mnemonic.Seed([]byte(about), []byte(passphrase))
		require.NoError(t, err)
		return hex.EncodeToString(s)
	}
	require.Equal(t, seed("e\u0301\u00e5"), seed("\u00e9a\u030a"), "NFKD")
	require.NotEqual(t, seed("x"), seed("x "), "not trimmed")
	require.NotEqual(t, seed("x"), seed("X"), "case counts")
	_, err := mnemonic.Seed([]byte(about), []byte{0xff})
	require.ErrorIs(t, err, mnemonic.ErrPassphraseUTF)
	_, err = mnemonic.Seed([]byte(about), make([]byte, mnemonic.MaxPassphrase+1))
	require.ErrorIs(t, err, mnemonic.ErrTooLong)
	// Each of these grows elevenfold under NFKD, and the salt must hold it.
	grown := strings.Repeat("\ufdfa", mnemonic.MaxPassphrase/3)
	want, err := pbkdf2.Key(sha512.New, about, []byte("mnemonic"+strings.Repeat("صلى الله عليه وسلم", mnemonic.MaxPassphrase/3)), 2048, mnemonic.SeedSize)
	require.NoError(t, err)
	require.Equal(t, hex.EncodeToString(want), seed(grown))
}

// A word list swapped by another package in the process must not give phrases
// in another language.
func TestWordListSwapped(t *testing.T) {
	t.Cleanup(func() { bip39.SetWordList(wordlists.English) })
	bip39.SetWordList(wordlists.Italian)
	_, err := mnemonic.New(12)
	require.Error(t, err)
	_, err = mnemonic.Parse([]byte(about))
	require.Error(t, err)
}

func FuzzParse(f *testing.F) {
	for _, v := range vectors(f) {
		f.Add([]byte(v.Mnemonic))
	}
	f.Add([]byte(strings.ToUpper(about)))
	f.Add([]byte(strings.ReplaceAll(about, " ", "\u3000\r\n")))
	f.Add([]byte(strings.ReplaceAll(about, "a", "\uff41")))
	f.Add([]byte("\ufdfa \xff"))
	f.Fuzz(func(t *testing.T, text []byte) {
		phrase, err := mnemonic.Parse(text)
		if err != nil {
			require.Nil(t, phrase)
			return
		}
		again, err := mnemonic.Parse(phrase)
		require.NoError(t, err)
		require.Equal(t, phrase, again, "canonical")
		// go-bip39 itself must agree on the canonical form.
		require.True(t, bip39.IsMnemonicValid(string(phrase)))
	})
}
