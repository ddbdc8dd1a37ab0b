package adapt

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	gojson "github.com/go-json-experiment/json"

	"github.com/alkdev/alknet-p2p/protocols/auth"
	"github.com/alkdev/alknet-p2p/protocols/call"
)

const (
	importWidth   = 8        // schemas asked for at a time (CALL-91)
	maxImported   = 4096     // operations of one peer
	maxImportSize = 16 << 20 // bytes of their specs
)

// ForwardIdentity is what a peer is told of the caller on whose behalf its
// operation is called (CALL-96).
type ForwardIdentity uint8

// The zero value of ForwardIdentity is ForwardFull.
const (
	// ForwardFull tells identity, scopes and resources.
	ForwardFull ForwardIdentity = iota
	// ForwardID tells the identity alone.
	ForwardID
	// ForwardNone tells nothing.
	ForwardNone
)

// FromCallConfig says what [FromCall] imports, and how; the zero value takes
// everything but the services of the protocol, under the names it has.
type FromCallConfig struct {
	// NamespacePrefix and a slash are put before each name; "" leaves the names.
	NamespacePrefix string
	// OperationFilter says which operations to import; nil is all but those
	// under services/ (CALL-92).
	OperationFilter func(call.OperationInfo) bool
	// ForwardIdentity is what the peer is told of who calls.
	ForwardIdentity ForwardIdentity
}

// FromCall makes operations of those that the peer of a session offers to us
// (CALL-91): for session.RegisterImported, which ends their life with that of
// the session. To call one is to call the peer, as us, with the deadline that
// is left; an abort reaches the peer, and a subscription's back-pressure too.
// What the peer answers is passed on unchanged (CALL-55).
//
// It asks once; a peer that comes again is asked again by whoever wants that.
// Errors are of type *AdapterError. An imported operation runs the peer's code,
// whatever its spec says (CALL-97).
func FromCall(ctx context.Context, session *call.Session, cfg FromCallConfig) ([]call.Operation, error) {
	rows, err := listed(ctx, session)
	if err != nil {
		return nil, err
	}
	var names []string
	seen := map[string]bool{}
	for _, row := range rows {
		if !cfg.takes(row) {
			continue
		}
		if seen[row.Name] {
			return nil, &AdapterError{Kind: SamePeerCollision, Message: row.Name}
		}
		seen[row.Name] = true
		names = append(names, row.Name)
	}
	if len(names) > maxImported {
		return nil, &AdapterError{Kind: SchemaParse, Message: fmt.Sprintf("more than %d operations", maxImported)}
	}
	specs, err := describeAll(ctx, session, names)
	if err != nil {
		return nil, err
	}
	ops := make([]call.Operation, len(specs))
	for i, spec := range specs {
		ops[i] = cfg.leaf(session, *spec)
	}
	return ops, nil
}

func (cfg *FromCallConfig) takes(row call.OperationInfo) bool {
	if cfg.OperationFilter != nil {
		return cfg.OperationFilter(row)
	}
	return !strings.HasPrefix(row.Name, "services/")
}

// listed asks for services/list. It is strict where Session.List is not, for
// what becomes of it is registered (CALL-94).
func listed(ctx context.Context, session *call.Session) ([]call.OperationInfo, error) {
	output, err := session.Call(ctx, "services/list", struct{}{})
	if err != nil {
		return nil, discoveryError("services/list", err)
	}
	var list struct {
		Operations *[]call.OperationInfo `json:"operations"`
	}
	err = gojson.Unmarshal(output, &list)
	if err == nil && list.Operations == nil {
		err = errors.New("operations are missing")
	}
	if err != nil {
		return nil, &AdapterError{Kind: SchemaParse, Message: "services/list", Err: err}
	}
	for i, row := range *list.Operations {
		switch row.Type {
		case call.OpQuery, call.OpMutation, call.OpSubscription:
		default:
			err = fmt.Errorf("unknown op_type %q", row.Type)
		}
		if row.Name == "" {
			err = errors.New("name is missing")
		}
		if err != nil {
			return nil, &AdapterError{Kind: SchemaParse, Message: fmt.Sprintf("services/list: operation %d", i), Err: err}
		}
	}
	return *list.Operations, nil
}

// describeAll asks for the specs of names, some at a time; the first failure ends
// it.
func describeAll(ctx context.Context, session *call.Session, names []string) ([]*call.Spec, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	specs := make([]*call.Spec, len(names))
	slots := make(chan struct{}, importWidth)
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		size int
	)
	for i, name := range names {
		slots <- struct{}{}
		if ctx.Err() != nil {
			break
		}
		wg.Go(func() {
			defer func() { <-slots }()
			spec, n, err := describe(ctx, session, name)
			mu.Lock()
			defer mu.Unlock()
			if size += n; err == nil && size > maxImportSize {
				err = &AdapterError{Kind: SchemaParse, Message: fmt.Sprintf("specs of more than %d bytes", maxImportSize)}
			}
			if err != nil {
				cancel(err)
			}
			specs[i] = spec
		})
	}
	wg.Wait()
	if ctx.Err() != nil {
		err := context.Cause(ctx)
		if _, ok := errors.AsType[*AdapterError](err); ok {
			return nil, err
		}
		return nil, &AdapterError{Kind: DiscoveryFailed, Message: "services/schema", Err: err}
	}
	return specs, nil
}

// describe asks for one spec, of size bytes.
func describe(ctx context.Context, session *call.Session, name string) (spec *call.Spec, size int, err error) {
	output, err := session.Call(ctx, "services/schema", map[string]string{"name": name})
	if err != nil {
		return nil, 0, discoveryError("services/schema of "+name, err)
	}
	spec = new(call.Spec)
	err = gojson.Unmarshal(output, spec)
	if err == nil && spec.Name != name {
		err = fmt.Errorf("it is one of %s", spec.Name)
	}
	if err != nil {
		return nil, 0, &AdapterError{Kind: SchemaParse, Message: "services/schema of " + name, Err: err}
	}
	return spec, len(output), nil
}

// discoveryError is the error of a call that asks what there is.
func discoveryError(message string, err error) error {
	kind := DiscoveryFailed
	switch {
	case errors.Is(err, call.ErrForbidden):
		kind = Unauthorized
	case errors.Is(err, call.ErrSessionClosed), errors.Is(err, call.ErrStreamClosed):
		kind = Transport
	}
	return &AdapterError{Kind: kind, Message: message, Err: err}
}

// leaf is the operation that stands for one of the peer's.
func (cfg *FromCallConfig) leaf(session *call.Session, spec call.Spec) call.Operation {
	l := &remote{session: session, name: spec.Name, forward: cfg.ForwardIdentity}
	if cfg.NamespacePrefix != "" {
		spec.Name = cfg.NamespacePrefix + "/" + spec.Name
	}
	spec.Visibility = call.Internal
	op := call.Operation{Spec: spec, Provenance: call.FromCall}
	if spec.Type == call.OpSubscription {
		op.Stream = call.StreamHandlerFunc(l.subscribe)
	} else {
		op.Handler = call.HandlerFunc(l.call)
	}
	return op
}

// remote is an operation of a peer (CALL-95).
type remote struct {
	session *call.Session
	name    string
	forward ForwardIdentity
}

func (l *remote) call(ctx context.Context, r *call.Request) (any, error) {
	return l.session.Call(ctx, l.name, r.Input, l.options(r)...)
}

// subscribe passes values on as fast as emit takes them: the peer gets credit
// for no more than that.
func (l *remote) subscribe(ctx context.Context, r *call.Request, emit func(any) error) error {
	sub, err := l.session.Subscribe(ctx, l.name, r.Input, l.options(r)...)
	if err != nil {
		return err
	}
	defer sub.Close()
	for {
		item, err := sub.Next(ctx)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = emit(item)
		}
		if err != nil {
			return err
		}
	}
}

// options are those of the call to the peer: what is left of the deadline
// (CALL-41), and who is behind it, never with a token of theirs (CALL-96).
func (l *remote) options(r *call.Request) []call.CallOption {
	opts := []call.CallOption{call.Forward(r)}
	if !r.Deadline.IsZero() {
		opts = append(opts, call.WithTimeout(max(time.Until(r.Deadline), time.Millisecond)))
	}
	if r.Origin != nil {
		told := auth.Identity{ID: r.Origin.ID, Scopes: []string{}, Resources: map[string][]string{}}
		switch l.forward {
		case ForwardFull:
			opts = append(opts, call.WithForwardedFor(*r.Origin))
		case ForwardID:
			opts = append(opts, call.WithForwardedFor(told))
		case ForwardNone:
		}
	}
	return opts
}
