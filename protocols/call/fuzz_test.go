package call_test

import (
	"encoding/binary"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/protocols"
	"github.com/alkdev/alknet-p2p/protocols/call"
)

// Whatever a peer writes on a stream, the stream ends in order and the session
// goes on.
func FuzzStream(f *testing.F) {
	files, err := filepath.Glob("testdata/transcripts/*.txt")
	require.NoError(f, err)
	for _, file := range files {
		text, err := os.ReadFile(file)
		require.NoError(f, err)
		var seed []byte
		for line := range strings.Lines(string(text)) {
			if _, body, ok := strings.Cut(strings.TrimSpace(line), "> {"); ok {
				seed = binary.BigEndian.AppendUint32(seed, uint32(len(body)+1))
				seed = append(seed, "{"+body...)
			}
		}
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, input []byte) {
		synctest.Test(t, func(t *testing.T) {
			server := call.New(call.Config{Provider: tokens{}, MaxTokenFailures: func() int { return 1 << 30 }})
			require.NoError(t, server.Register(testOperations()...))
			a, b := protocols.Pipe(call.ALPN)
			node := serve(t, a, server, known())
			s, err := b.OpenStream(t.Context())
			require.NoError(t, err)
			go func() { _, _ = io.Copy(io.Discard, s) }()
			_, _ = s.Write(input)
			_ = s.CloseWrite()
			synctest.Wait()
			second, err := b.OpenStream(t.Context())
			require.NoError(t, err)
			request := `{"type":"call.requested","id":"fine","payload":{"operationId":"/node/echo","input":1}}`
			_, err = second.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(request))), request...))
			require.NoError(t, err)
			answer, err := readFrame(second)
			require.NoError(t, err)
			require.Equal(t, `{"type":"call.responded","id":"fine","payload":{"output":1}}`, answer)
			_ = b.Close(0, "over")
			node.stop()
		})
	})
}
