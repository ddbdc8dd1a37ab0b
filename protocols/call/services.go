package call

import (
	"context"
	"encoding/json"
	"slices"
	"strings"

	"github.com/alkdev/alknet-p2p/protocols/auth"
)

const (
	servicesList   = "services/list"
	servicesSchema = "services/schema"
	servicesPeers  = "services/list-peers"
)

// services are the operations every node offers (CALL-87, CALL-88).
func (p *Protocol) services() []Operation {
	return []Operation{
		{
			Spec: Spec{
				Name:         servicesList,
				InputSchema:  json.RawMessage(`{"type":["object","null"]}`),
				OutputSchema: json.RawMessage(`{"type":"object","required":["operations"],"properties":{"operations":{"type":"array","items":{"type":"object","required":["name","namespace","op_type"],"properties":{"name":{"type":"string"},"namespace":{"type":"string"},"op_type":{"enum":["query","mutation","subscription"]}}}}}}`),
			},
			Handler: HandlerFunc(p.list),
		},
		{
			Spec: Spec{
				Name:         servicesSchema,
				InputSchema:  json.RawMessage(`{"type":["object","null"],"properties":{"name":{"type":"string"}}}`),
				OutputSchema: json.RawMessage(`{"type":"object"}`),
			},
			Handler: HandlerFunc(p.schema),
		},
	}
}

// list answers with what this caller may call, sorted by name.
func (p *Protocol) list(_ context.Context, r *Request) (any, error) {
	return map[string][]OperationInfo{"operations": p.offered(r.Identity)}, nil
}

// offered lists the operations of this node that a caller may call, sorted by
// name.
func (p *Protocol) offered(to *auth.Identity) []OperationInfo {
	rows := []OperationInfo{}
	for _, spec := range p.registry.Specs() {
		if spec.Visibility == External && to.May(spec.Name, spec.Access) == nil {
			rows = append(rows, OperationInfo{Name: spec.Name, Namespace: spec.Namespace(), Type: spec.Type})
		}
	}
	return rows
}

// schema answers as calling the operation would: what this caller may not call
// it does not see.
func (p *Protocol) schema(_ context.Context, r *Request) (any, error) {
	var in struct {
		Name *string `json:"name"`
	}
	if err := r.Decode(&in); err != nil {
		return nil, err
	}
	if in.Name == nil {
		return nil, Errorf(CodeInvalidInput, "missing required field: name")
	}
	op, denied := p.find(strings.TrimPrefix(*in.Name, "/"), r.Identity)
	if denied != nil {
		return nil, denied
	}
	return op.Spec, nil
}

// peerOperations is a row of services/list-peers.
type peerOperations struct {
	PeerID     auth.PeerName   `json:"peer_id"`
	Operations []OperationInfo `json:"operations"`
}

// localPeer is the reserved name of this node's own row.
const localPeer = "local"

// ListPeers is the operation services/list-peers, which a node offers only if
// it registers it (CALL-89): what its caller may call here, then, by peer, what
// is imported and the peer's own spec lets the caller use. Strangers are left
// out.
func (p *Protocol) ListPeers() Operation {
	return Operation{
		Spec: Spec{
			Name:         servicesPeers,
			InputSchema:  json.RawMessage(`{"type":["object","null"]}`),
			OutputSchema: json.RawMessage(`{"type":"object","required":["peers"],"properties":{"peers":{"type":"array","items":{"type":"object","required":["peer_id","operations"],"properties":{"peer_id":{"type":"string"},"operations":{"type":"array"}}}}}}`),
		},
		Handler: HandlerFunc(p.listPeers),
	}
}

func (p *Protocol) listPeers(_ context.Context, r *Request) (any, error) {
	rows := []peerOperations{}
	add := func(name auth.PeerName, list []OperationInfo) {
		if len(list) > 0 {
			rows = append(rows, peerOperations{name, list})
		}
	}
	add(localPeer, p.offered(r.Identity))
	for im := range r.execution.layers.attached() {
		list := []OperationInfo{}
		for _, e := range im.ops.byName {
			if r.Identity.May(e.Spec.Name, e.Spec.Access) == nil {
				list = append(list, e.info())
			}
		}
		slices.SortFunc(list, func(a, b OperationInfo) int { return strings.Compare(a.Name, b.Name) })
		add(im.session.peer.PeerName, list)
	}
	return map[string][]peerOperations{"peers": rows}, nil
}

// Echo is the operation node/echo: a query that answers with its input.
func Echo() Operation {
	return Operation{
		Spec:    Spec{Name: "node/echo"},
		Handler: HandlerFunc(func(_ context.Context, r *Request) (any, error) { return r.Input, nil }),
	}
}

// Info is the operation node/info: a query that answers with what info
// returns.
func Info(info func(ctx context.Context) any) Operation {
	return Operation{
		Spec:    Spec{Name: "node/info", InputSchema: json.RawMessage(`{"type":["object","null"]}`)},
		Handler: HandlerFunc(func(ctx context.Context, _ *Request) (any, error) { return info(ctx), nil }),
	}
}
