package call

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"reflect"

	gojson "github.com/go-json-experiment/json"

	"github.com/alkdev/alknet-p2p/protocols/auth"
)

// Registrar takes operations: a [Registry], or a [Protocol].
type Registrar interface {
	Register(ops ...Operation) error
}

// OperationOption changes an operation made of a function: its access, its
// schemas, its timeout. It is run before schemas that are still missing are
// inferred.
type OperationOption func(*Operation) error

// Query registers a query made of a function on Go types; a Request still
// tells whose it is, and its Input is what in was decoded from.
//
// Schemas that no option gives are inferred from In and Out: by their JSON
// names, fields without omitempty or omitzero required, members without a field
// refused, and an input that requires nothing may be null. Types that contain
// themselves need a given schema. Errors that are a [DomainError] become the
// error of their code.
func Query[In, Out any](
	reg Registrar, name string, f func(ctx context.Context, r *Request, in In) (Out, error), opts ...OperationOption,
) error {
	return register[In, Out](reg, Operation{Spec: Spec{Name: name, Type: OpQuery}, Handler: handler(f)}, opts)
}

// Mutation is [Query] for an operation that changes something.
func Mutation[In, Out any](
	reg Registrar, name string, f func(ctx context.Context, r *Request, in In) (Out, error), opts ...OperationOption,
) error {
	return register[In, Out](reg, Operation{Spec: Spec{Name: name, Type: OpMutation}, Handler: handler(f)}, opts)
}

// Stream is [Query] for a subscription with values of type Item; emit is that
// of a [StreamHandler].
func Stream[In, Item any](
	reg Registrar, name string, f func(ctx context.Context, r *Request, in In, emit func(Item) error) error, opts ...OperationOption,
) error {
	stream := StreamHandlerFunc(func(ctx context.Context, r *Request, emit func(any) error) error {
		var in In
		if err := r.Decode(&in); err != nil {
			return err
		}
		return domain(f(ctx, r, in, func(item Item) error { return emit(item) }))
	})
	return register[In, Item](reg, Operation{Spec: Spec{Name: name, Type: OpSubscription}, Stream: stream}, opts)
}

// RequireScopes lets in only callers that hold all of the scopes.
func RequireScopes(scopes ...string) OperationOption {
	return func(op *Operation) error {
		op.Spec.Access = auth.Access{RequiredScopes: scopes}
		return nil
	}
}

// DomainError is a Go error that stands for one declared code; its JSON is the
// details (CALL-53). The code is that of the type: ErrorCode works on the zero
// value. On the caller's side errors.As finds it in the [Error] of a call.
type DomainError interface {
	error
	ErrorCode() Code
}

// Declare declares the code of E, with a schema of details inferred from E.
func Declare[E DomainError](description string) OperationOption {
	return func(op *Operation) error {
		t := reflect.TypeFor[E]()
		zero, ok := newDomainError(t)
		if !ok {
			return fmt.Errorf("%v is no type of error", t)
		}
		schema, err := infer(t, false)
		if err != nil {
			return fmt.Errorf("error %s: %w", zero.ErrorCode(), err)
		}
		op.Spec.Errors = append(op.Spec.Errors, ErrorSpec{Code: zero.ErrorCode(), Description: description, Schema: schema})
		return nil
	}
}

// Invoke calls an operation of the peer and decodes its output as Out, as
// [Decode] does.
func Invoke[Out any](ctx context.Context, s *Session, name string, in any, opts ...CallOption) (Out, error) {
	return Decode[Out](s.Call(ctx, name, in, opts...))
}

// Subscribe yields the values of a subscription of the peer, which begins when
// the loop does and ends with it, as [Subscription.All] tells.
func Subscribe[Item any](ctx context.Context, s *Session, name string, in any, opts ...CallOption) iter.Seq2[Item, error] {
	return func(yield func(Item, error) bool) {
		sub, err := s.Subscribe(ctx, name, in, opts...)
		if err != nil {
			var none Item
			yield(none, err)
			return
		}
		for item, err := range sub.All(ctx) {
			value, err := Decode[Item](item, err)
			if !yield(value, err) || err != nil {
				return
			}
		}
	}
}

// Decode decodes the output of a call unless err is one. It is as strict as
// [Request.Decode]; members without a field are ignored.
func Decode[T any](output json.RawMessage, err error) (T, error) {
	var value T
	if err != nil {
		return value, err
	}
	if err := gojson.Unmarshal(output, &value); err != nil {
		return value, &Error{Code: CodeInternal, Message: fmt.Sprintf("decode output: %v", err), cause: err}
	}
	return value, nil
}

// As implements errors.As for a [DomainError] of this code.
func (e *Error) As(target any) bool {
	v := reflect.ValueOf(target).Elem()
	d, ok := newDomainError(v.Type())
	if !ok || d.ErrorCode() != e.Code {
		return false
	}
	if len(e.Details) > 0 && gojson.Unmarshal(e.Details, d) != nil {
		return false
	}
	made := reflect.ValueOf(d)
	if v.Kind() != reflect.Pointer {
		made = made.Elem()
	}
	v.Set(made)
	return true
}

// newDomainError makes an error of type t, behind a pointer.
func newDomainError(t reflect.Type) (DomainError, bool) {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return reflect.TypeAssert[DomainError](reflect.New(t))
}

// handler is the untyped form of f.
func handler[In, Out any](f func(context.Context, *Request, In) (Out, error)) Handler {
	return HandlerFunc(func(ctx context.Context, r *Request) (any, error) {
		var in In
		if err := r.Decode(&in); err != nil {
			return nil, err
		}
		out, err := f(ctx, r, in)
		return out, domain(err)
	})
}

// domain makes an *Error of a DomainError.
func domain(err error) error {
	if _, ok := asError(err); ok {
		return err
	}
	d, ok := errors.AsType[DomainError](err)
	if !ok {
		return err
	}
	e := Errorf(d.ErrorCode(), "%v", d).WithDetails(d) // what wraps d is not for the caller
	e.cause = err
	return e
}

// register completes op and registers it.
func register[In, Out any](reg Registrar, op Operation, opts []OperationOption) error {
	err := op.complete(reflect.TypeFor[In](), reflect.TypeFor[Out](), opts)
	if err != nil {
		return fmt.Errorf("register operation %q: %w", op.Spec.Name, err)
	}
	return reg.Register(op)
}

func (op *Operation) complete(in, out reflect.Type, opts []OperationOption) (err error) {
	for _, opt := range opts {
		if err := opt(op); err != nil {
			return err
		}
	}
	if op.Spec.InputSchema == nil {
		if op.Spec.InputSchema, err = infer(in, true); err != nil {
			return fmt.Errorf("input: %w", err)
		}
	}
	if op.Spec.OutputSchema == nil {
		if op.Spec.OutputSchema, err = infer(out, false); err != nil {
			return fmt.Errorf("output: %w", err)
		}
	}
	return nil
}
