package call

import "encoding/json"

// CheckInput checks an input as a call of the operation does.
func CheckInput(r *Registry, name string, input json.RawMessage) *Error {
	return r.lookup(name).checkInput(input)
}
