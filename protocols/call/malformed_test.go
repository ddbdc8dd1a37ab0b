package call_test

import (
	"encoding/binary"
	"os"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/protocols"
	"github.com/alkdev/alknet-p2p/protocols/call"
)

// CALL-2, CALL-6, CALL-8, CALL-17: whatever breaks the rules of the envelope
// ends its stream with 41001, and nothing else: a call and a subscription of
// each direction go on. What only the payload holds is in the transcript
// malformed.txt.
func TestCALL6MalformedFramesEndTheirStreamOnly(t *testing.T) {
	text, err := os.ReadFile("internal/wire/testdata/violations.txt")
	require.NoError(t, err)
	frame := func(body string) string {
		return string(binary.BigEndian.AppendUint32(nil, uint32(len(body)))) + body
	}
	frames := map[string]string{
		"size 0":          "\x00\x00\x00\x00",
		"size over limit": "\x04\x00\x00\x01",
		"largest size":    "\xff\xff\xff\xff",
		"byte order mark": frame("\xef\xbb\xbf" + `{"type":"call.requested","id":"1","payload":{"operationId":"/node/echo"}}`),
		"not UTF-8":       frame(`{"type":"call.requested","id":"1","payload":{"operationId":"/node/echo","input":"` + "\xff" + `"}}`),
		"UTF-16":          frame("\x00{\x00}"),
		"lone surrogate":  frame(`{"type":"call.requested","id":"\ud800","payload":{"operationId":"/node/echo"}}`),
		"zero byte":       frame("{\x00}"),
		"too deep":        frame(`{"type":"call.requested","id":"1","payload":{"operationId":"/node/echo","input":` + strings.Repeat("[", 10_001) + strings.Repeat("]", 10_001) + `}}`),
		"id of 129 bytes": frame(`{"type":"call.requested","id":"` + strings.Repeat("i", 129) + `","payload":{"operationId":"/node/echo"}}`),
		"two envelopes":   frame(strings.Repeat(`{"type":"call.requested","id":"1","payload":{"operationId":"/node/echo"}}`, 2)),
		"request twice":   frame(`{"type":"call.requested","id":"1","payload":{"operationId":"/node/echo","operationId":"/node/echo"}}`),
		"escaped twice":   frame(`{"type":"call.requested","id":"1","payload":{"operationId":"/node/echo","input":1,"\u0069nput":2}}`),
		"response twice":  frame(`{"type":"call.responded","id":"1","payload":{"output":1,"output":2}}`),
		"error twice":     frame(`{"type":"call.error","id":"1","payload":{"code":"X","code":"Y","message":"","retryable":false}}`),
		"credit twice":    frame(`{"type":"call.credit","id":"1","payload":{"items":1,"items":2}}`),
		"abort twice":     frame(`{"type":"call.aborted","id":"1","payload":{"a":1,"a":2}}`),
		"completed twice": frame(`{"type":"call.completed","id":"1","payload":{"a":1,"a":2}}`),
		"other case":      frame(`{"Type":"call.requested","Id":"1","payload":{"operationId":"/node/echo"}}`),
		"id in flight":    frame(`{"type":"call.requested","id":"live","payload":{"operationId":"/node/echo"}}`),
	}
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSuffix(line, "\n"); line != "" && line[0] != '#' {
			frames[line] = frame(line)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		proto := call.New(call.Config{})
		require.NoError(t, proto.Register(testOperations()...))
		a, b := protocols.Pipe(call.ALPN)
		node := serve(t, a, proto, known())
		raw := func(bytes string) *bareEnd {
			s, err := b.OpenStream(t.Context())
			require.NoError(t, err)
			_, err = s.Write([]byte(bytes))
			require.NoError(t, err)
			return &bareEnd{s}
		}
		live := raw(frame(`{"type":"call.requested","id":"live","payload":{"operationId":"/test/sleep","input":20000}}`) +
			frame(`{"type":"call.requested","id":"sub","payload":{"operationId":"/test/ticks","window":1}}`))
		require.Equal(t, `{"type":"call.responded","id":"sub","payload":{"output":0}}`, live.next(t))
		synctest.Wait()
		for name, bytes := range frames {
			if got := raw(bytes).next(t); got != "reset 41001" {
				t.Errorf("%.80q: %s", name, got)
			}
		}
		_, err := live.Write([]byte(frame(`{"type":"call.credit","id":"sub","payload":{"items":1}}`)))
		require.NoError(t, err)
		require.Equal(t, `{"type":"call.responded","id":"sub","payload":{"output":1}}`, live.next(t))
		require.Equal(t, `{"type":"call.responded","id":"live","payload":{"output":20000}}`, live.next(t))
		_ = b.Close(0, "over")
		<-node.done
	})
}

// bareEnd is a stream of a bare peer.
type bareEnd struct{ protocols.Stream }

// next is the body of the next frame, or how the stream ended.
func (e *bareEnd) next(t *testing.T) string {
	t.Helper()
	got, err := readFrame(e)
	if err != nil {
		return ending(err)
	}
	return got
}
