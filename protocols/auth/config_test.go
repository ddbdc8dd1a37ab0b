package auth_test

import (
	"testing"

	"github.com/alkdev/alknet-p2p/protocols/auth"
	"github.com/stretchr/testify/require"
)

func TestQuick(t *testing.T) {
	c, err := auth.ParseConfig([]byte(`{"auth":{"peers":[{"peer_id":"a","fingerprints":["ed25519:d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"]},{"peer_id":"b","enabled":false}]}}`))
	require.NoError(t, err)
	require.True(t, c.Auth.Peers[0].Enabled)
	require.False(t, c.Auth.Peers[1].Enabled)
	b, err := c.Append(nil)
	require.NoError(t, err)
	t.Log(string(b))
	for _, s := range []string{"{\"auth\":{\n \"peers\":[\n{\"peer_id\":\"a\",\n \"foo\":1}]}}", "{\"auth\":{\n \"peers\":[\n{\"peer_id\":\"a\",\n \"fingerprints\":[\"x\"]}]}}", "{\"auth\":{\n \"peers\":[\n{\"peer_id\":3}]}}", "{\n\"auth\":{", "{\n\"auth\":{},\n  \"auth\":{}}", "{\"auth\":{\n \"peers\":[\n{}]}}", "{\"auth\":{\n \"peers\":[\n{\"peer_id\":\"a\",\"enabled\":\"x\"}]}}", "", "[]"} {
		_, err = auth.ParseConfig([]byte(s))
		f := err.(*auth.FieldError)
		t.Logf("%d:%d %s ptr=%s", f.Line, f.Column, f, f.Pointer)
	}
}
