package vault_test

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/vault"
)

func TestNewMnemonic(t *testing.T) {
	m, err := vault.NewMnemonic(vault.DefaultWords)
	require.NoError(t, err)
	var held []byte
	require.NoError(t, m.Use(func(phrase []byte) {
		require.Len(t, bytes.Fields(phrase), 24)
		held = phrase
	}))
	m.Wipe()
	require.Equal(t, make([]byte, len(held)), held, "overwritten")
	require.ErrorIs(t, m.Use(func([]byte) { t.Error("called after Wipe") }), vault.ErrWiped)
	m.Wipe()

	_, err = vault.NewMnemonic(11)
	require.ErrorIs(t, err, vault.ErrMnemonic)
}

func TestParseMnemonic(t *testing.T) {
	m := parse(t, "  "+about+"\n")
	require.NoError(t, m.Use(func(phrase []byte) { require.Equal(t, about, string(phrase)) }))
	again := *m
	again.Wipe()
	require.ErrorIs(t, m.Use(func([]byte) {}), vault.ErrWiped, "copies share the phrase")

	_, err := vault.ParseMnemonic([]byte(about[:len(about)-1]))
	require.ErrorIs(t, err, vault.ErrMnemonic)
	require.EqualError(t, err, "mnemonic error: word 12 of 12 is not in the English word list")
}

func FuzzParseMnemonic(f *testing.F) {
	f.Add([]byte(about))
	f.Add([]byte("LETTER advice\u3000cage absurd amount doctor acoustic avoid letter advice cage absurd amount doctor acoustic avoid letter always"))
	f.Add([]byte("zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo wrong\r\n"))
	f.Add([]byte("\ufdfa \xff"))
	f.Fuzz(func(t *testing.T, text []byte) {
		m, err := vault.ParseMnemonic(text)
		if err != nil {
			require.ErrorIs(t, err, vault.ErrMnemonic)
			require.Nil(t, m)
			return
		}
		require.NoError(t, m.Use(func(phrase []byte) {
			again := parse(t, string(phrase))
			require.NoError(t, again.Use(func(same []byte) { require.Equal(t, phrase, same) }))
		}))
	})
}
