package call_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/protocols"
	"github.com/alkdev/alknet-p2p/protocols/call"
)

func TestErrorsMatchByCodeAndKind(t *testing.T) {
	for code, sentinel := range map[call.Code]error{
		call.CodeNotFound:             call.ErrNotFound,
		call.CodeForbidden:            call.ErrForbidden,
		call.CodeInvalidInput:         call.ErrInvalidInput,
		call.CodeInvalidOperationType: call.ErrInvalidOperationType,
		call.CodeInternal:             call.ErrInternal,
		call.CodeTimeout:              call.ErrTimeout,
	} {
		err := fmt.Errorf("calling: %w", call.Errorf(code, "text %d", 1))
		require.ErrorIs(t, err, sentinel)
		require.EqualError(t, err, "calling: "+string(code)+": text 1")
		var e *call.Error
		require.ErrorAs(t, err, &e)
		require.Equal(t, code == call.CodeTimeout, e.Retryable)
		require.False(t, e.Remote())
		for other, wrong := range map[call.Code]error{call.CodeNotFound: call.ErrNotFound, call.CodeTimeout: call.ErrTimeout} {
			require.Equal(t, other == code, errors.Is(err, wrong))
		}
	}
	require.ErrorIs(t, call.Errorf(call.CodeTimeout, "x"), context.DeadlineExceeded)
	require.NotErrorIs(t, call.Errorf(call.CodeInternal, "x"), context.DeadlineExceeded)
	// The kinds of INTERNAL are INTERNAL, but INTERNAL is none of them.
	for _, kind := range []*call.Error{
		call.ErrAborted, call.ErrSubscriptionOverflow, call.ErrSessionClosed, call.ErrStreamClosed, call.ErrFrameTooLarge,
	} {
		require.ErrorIs(t, kind, call.ErrInternal)
		require.NotErrorIs(t, call.Errorf(call.CodeInternal, "%s", kind.Message), kind)
	}
	require.ErrorIs(t, call.ErrSessionClosed, net.ErrClosed)
	require.ErrorIs(t, call.ErrStreamClosed, protocols.ErrStreamClosed)
	require.NotErrorIs(t, call.ErrAborted, call.ErrSessionClosed)
}

func TestErrorWithDetails(t *testing.T) {
	e := call.Errorf("DISK_FULL", "no room")
	d := e.WithDetails(map[string]int{"free": 0})
	require.JSONEq(t, `{"free":0}`, string(d.Details))
	require.Nil(t, e.Details, "a copy")
	require.Nil(t, e.WithDetails(func() {}).Details)
	require.Equal(t, json.RawMessage(`[1]`), e.WithDetails(json.RawMessage(`[1]`)).Details)
}

// CALL-55: a handler may pass on what another node has answered.
func TestCALL55RemoteErrorPassesOn(t *testing.T) {
	far := pair(t, known(), call.Operation{
		Spec:    call.Spec{Name: "a/b", Errors: []call.ErrorSpec{{Code: "DISK_FULL"}}},
		Handler: call.HandlerFunc(func(context.Context, *call.Request) (any, error) { return nil, call.Errorf("DISK_FULL", "x") }),
	})
	near := pair(t, known(), call.Operation{
		Spec: call.Spec{Name: "a/b", Errors: []call.ErrorSpec{{Code: "DISK_FULL"}}},
		Handler: call.HandlerFunc(func(ctx context.Context, r *call.Request) (any, error) {
			return far.Call(ctx, "a/b", r.Input)
		}),
	})
	_, err := near.Call(t.Context(), "a/b", nil)
	var e *call.Error
	require.ErrorAs(t, err, &e)
	require.Equal(t, call.Code("DISK_FULL"), e.Code)
	require.True(t, e.Remote())
}
