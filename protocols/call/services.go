package call

import (
	"context"
	"encoding/json"
	"strings"
)

const (
	servicesList   = "services/list"
	servicesSchema = "services/schema"
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
	rows := []OperationInfo{}
	for _, spec := range p.registry.Specs() {
		if spec.Visibility == External && r.Identity.May(spec.Name, spec.Access) == nil {
			rows = append(rows, OperationInfo{Name: spec.Name, Namespace: spec.Namespace(), Type: spec.Type})
		}
	}
	return map[string][]OperationInfo{"operations": rows}, nil
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
