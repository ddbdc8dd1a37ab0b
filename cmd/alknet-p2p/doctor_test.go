package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/node"
)

// PATH-34: what has one cause is told once, with all that it is about.
func TestPATH34DoctorTellsACauseOnce(t *testing.T) {
	var w bytes.Buffer
	(&app{}).printDoctor(&w, &node.Diagnosis{Checks: []node.Check{
		{Name: "clock", OK: true, Detail: "fine"},
		{Name: "udp4", Relay: "12D3KooWaaaaaaaa", Cause: "shut", Cure: "open"},
		{Name: "tcp443", Relay: "12D3KooWaaaaaaaa", Cause: "dead", Cure: "start"},
		{Name: "tcp443", Relay: "12D3KooWaaaaaaaa", Cause: "dead", Cure: "start"},
		{Name: "udp4", Relay: "12D3KooWbbbbbbbb", Cause: "shut", Cure: "open"},
	}})
	_, told, ok := strings.Cut(w.String(), "\n\n")
	require.True(t, ok)
	require.Equal(t, "udp4 …aaaaaaaa, udp4 …bbbbbbbb\nbecause  shut\ncure     open\n\n"+
		"tcp443 …aaaaaaaa\nbecause  dead\ncure     start\n", told)
}
