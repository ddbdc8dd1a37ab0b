package vault

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/alkdev/alknet-p2p/vault/internal/wipe"
)

// object is a JSON object whose members are not decoded yet. Unlike a struct
// in encoding/json, it tells names apart by case and takes none twice.
type object map[string]json.RawMessage

var errDuplicateMember = errors.New("a member occurs twice")

func parseObject(data []byte) (object, error) {
	var o object
	if err := json.Unmarshal(data, &o); err != nil || o == nil {
		return nil, errors.New("not a JSON object") // err may quote data
	}
	if countMembers(data) != len(o) {
		return nil, errDuplicateMember
	}
	return o, nil
}

// wipeObject overwrites the members, which are copies of what was parsed.
func wipeObject(o object) {
	for _, raw := range o {
		wipe.Bytes(raw)
	}
}

// countMembers counts the members of a valid JSON object, by its colons outside
// of strings and inner values.
func countMembers(data []byte) int {
	members, depth, quoted := 0, 0, false
	for i := 0; i < len(data); i++ {
		switch c := data[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{' || c == '[':
			depth++
		case c == '}' || c == ']':
			depth--
		case c == ':' && depth == 1:
			members++
		}
	}
	return members
}

// member decodes a member that must be there and not null.
func member[T any](o object, name string) (T, error) {
	var value T
	raw, ok := o[name]
	if !ok {
		return value, fmt.Errorf("%q is missing", name)
	}
	if string(raw) == "null" || json.Unmarshal(raw, &value) != nil {
		return value, fmt.Errorf("%q has the wrong type or range", name)
	}
	return value, nil
}
