package call_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/alkdev/alknet-p2p/protocols/call"
)

// DivisionByZeroError is the declared error of the operation below.
type DivisionByZeroError struct {
	Dividend int `json:"dividend"`
}

func (DivisionByZeroError) Error() string        { return "division by zero" }
func (DivisionByZeroError) ErrorCode() call.Code { return "DIVISION_BY_ZERO" }

func ExampleQuery() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	type division struct {
		A int `json:"a"`
		B int `json:"b"`
	}
	calls := call.New(call.Config{})
	err := call.Query(calls, "math/divide",
		func(_ context.Context, _ *call.Request, in division) (int, error) {
			if in.B == 0 {
				return 0, DivisionByZeroError{in.A}
			}
			return in.A / in.B, nil
		},
		call.Declare[DivisionByZeroError]("the divisor is 0"))
	if err != nil {
		fmt.Println(err)
		return
	}

	session := connected(ctx, calls)
	fmt.Println(call.Invoke[int](ctx, session, "math/divide", division{A: 6, B: 3}))

	_, err = call.Invoke[int](ctx, session, "math/divide", division{A: 6})
	if zero, ok := errors.AsType[DivisionByZeroError](err); ok {
		fmt.Println("cannot divide", zero.Dividend)
	}

	_, err = call.Invoke[int](ctx, session, "math/divide", "6/3")
	fmt.Println(err)
	// Output:
	// 2 <nil>
	// cannot divide 6
	// INVALID_INPUT: input does not match the schema: got string, want object
}
