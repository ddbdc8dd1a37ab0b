package call_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/protocols/call"
)

func TestCallAnswers(t *testing.T) {
	s := pair(t, known(), call.Echo())
	out, err := s.Call(t.Context(), "node/echo", json.RawMessage(`{"b":9007199254740993,"a":[ 1 ]}`))
	require.NoError(t, err)
	// CALL-9: members' order, white space and integers beyond 2^53 survive.
	require.Equal(t, `{"b":9007199254740993,"a":[ 1 ]}`, string(out))

	out, err = s.Call(t.Context(), "/node/echo", nil) // CALL-12: one leading slash
	require.NoError(t, err)
	require.Equal(t, "null", string(out))
}

func TestSubscribe(t *testing.T) {
	s := pair(t, known(), stream("count/to", func(_ context.Context, r *call.Request, emit func(any) error) error {
		var n int
		if err := r.Decode(&n); err != nil {
			return err
		}
		for i := range n {
			if err := emit(i); err != nil {
				return err
			}
		}
		return nil
	}))
	for _, n := range []int{0, 1, 32, 1000} {
		sub, err := s.Subscribe(t.Context(), "count/to", n)
		require.NoError(t, err)
		for i := range n {
			v, err := sub.Next(t.Context())
			require.NoError(t, err)
			require.Equal(t, strconv.Itoa(i), string(v))
		}
		_, err = sub.Next(t.Context())
		require.ErrorIs(t, err, io.EOF)
		require.NoError(t, sub.Close())
		_, err = sub.Next(t.Context())
		require.ErrorIs(t, err, io.EOF)
	}
}

func TestLargeBothWays(t *testing.T) {
	s := pair(t, known(), call.Echo())
	big := json.RawMessage(`"` + strings.Repeat("x", 3<<20) + `"`)
	for range 3 {
		out, err := s.Call(t.Context(), "node/echo", big)
		require.NoError(t, err)
		require.Equal(t, string(big), string(out))
	}
}

func TestErrorOfHandler(t *testing.T) {
	s := pair(t, known(), query("a/b", func(context.Context, *call.Request) (any, error) {
		return nil, errors.New("secret")
	}))
	_, err := s.Call(t.Context(), "a/b", nil)
	require.ErrorIs(t, err, call.ErrInternal)
	require.NotContains(t, err.Error(), "secret")
	var e *call.Error
	require.ErrorAs(t, err, &e)
	require.True(t, e.Remote())
}
