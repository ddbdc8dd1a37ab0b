//go:build linux

package secrets

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// needle is a form of a secret that must not be found.
type needle struct {
	what string
	form []byte
}

// phraseNeedles are all runs of four words: fewer may stand side by side by
// chance, in the list of all words for one.
func phraseNeedles(phrase string) []needle {
	const run = 4
	words := strings.Fields(phrase)
	var needles []needle
	for i := range len(words) - run + 1 {
		needles = append(needles, needle{fmt.Sprintf("words %d to %d", i+1, i+run), []byte(strings.Join(words[i:i+run], " "))})
	}
	return needles
}

// keyNeedles are the forms of a binary secret: as it is, and as programs print
// it.
func keyNeedles(what string, key []byte) []needle {
	needles := []needle{
		{what, key},
		{what + " in hex", []byte(hex.EncodeToString(key))},
		{what + " in upper-case hex", []byte(strings.ToUpper(hex.EncodeToString(key)))},
		{what + " as %v", []byte(strings.Trim(fmt.Sprint(key), "[]"))},
		{what + " as JSON", []byte(strings.ReplaceAll(strings.Trim(fmt.Sprint(key), "[]"), " ", ","))},
	}
	for _, encoding := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		// At the beginning of what is encoded, or after one or two bytes.
		for offset := range 3 {
			text := encoding.EncodeToString(append(make([]byte, offset), key...))
			// Its first and last characters hold bits of what is around it.
			needles = append(needles, needle{what + " in base64", []byte(text[(offset*8+5)/6 : len(text)-1])})
		}
	}
	return needles
}

// textNeedles are the forms of a secret that is text.
func textNeedles(what, text string) []needle { return keyNeedles(what, []byte(text)) }

// found names the needles that are in a haystack.
func found(haystack []byte, needles []needle) []string {
	var names []string
	for _, n := range needles {
		if bytes.Contains(haystack, n.form) && !slices.Contains(names, n.what) {
			names = append(names, n.what)
		}
	}
	return names
}

// The needles find what they are for.
func TestNeedles(t *testing.T) {
	key := []byte("\xfa\x01\x80 thirty-two bytes, not text \xff\x00")
	for _, before := range []string{"", "x", "xy", "xyz"} {
		plain := append([]byte(before), key...)
		plain = append(plain, "after"...)
		for _, haystack := range []string{
			string(plain), hex.EncodeToString(plain), strings.ToUpper(hex.EncodeToString(plain)), fmt.Sprint(plain),
			base64.StdEncoding.EncodeToString(plain), base64.URLEncoding.EncodeToString(plain),
		} {
			require.NotEmpty(t, found([]byte("…"+haystack+"…"), keyNeedles("key", key)), "%q", haystack)
		}
	}
	require.Empty(t, found([]byte("something else"), keyNeedles("key", key)))
	phrase := "legal winner thank year wave sausage worth useful legal winner thank yellow"
	require.Equal(t, []string{"words 9 to 12"}, found([]byte("legal winner thank yellow"), phraseNeedles(phrase)))
	require.Empty(t, found([]byte("legal winner thank wave"), phraseNeedles(phrase)))
}
