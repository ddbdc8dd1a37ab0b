package auth

import (
	"slices"
	"strings"

	"github.com/go-json-experiment/json"
)

// Access is what an operation asks of its caller (CALL-60). The zero value
// lets anyone in, anonymous callers too. Matching is by exact strings; there
// are no wildcards.
type Access struct {
	// RequiredScopes must all be held.
	RequiredScopes []string `json:"required_scopes"`
	// RequiredScopesAny: one of them must be held. nil asks for nothing; a
	// non-nil empty list lets nobody in.
	RequiredScopesAny []string `json:"required_scopes_any"`
	// ResourceType and ResourceAction ask for a grant in
	// Identity.Resources: with both, the action on that type; with the type
	// alone, any action on it; with the action alone, that action on any type.
	ResourceType   *string `json:"resource_type"`
	ResourceAction *string `json:"resource_action"`
}

// DeniedError says why an identity was not let in. Its text is meant for the
// caller: it names what is missing, never what the identity holds.
type DeniedError struct {
	// Reason is the text of CALL-60.
	Reason string
}

// Error implements error; it is the reason alone.
func (e *DeniedError) Error() string { return e.Reason }

// Check returns nil when id may pass, else a *DeniedError. A nil id is an
// anonymous caller.
func (a Access) Check(id *Identity) error {
	if len(a.RequiredScopes) == 0 && a.RequiredScopesAny == nil && a.ResourceType == nil && a.ResourceAction == nil {
		return nil
	}
	if id == nil {
		return &DeniedError{"authentication required"}
	}
	for _, s := range a.RequiredScopes {
		if !slices.Contains(id.Scopes, s) {
			return &DeniedError{"missing required scope: " + s}
		}
	}
	if a.RequiredScopesAny != nil && !slices.ContainsFunc(a.RequiredScopesAny, func(s string) bool {
		return slices.Contains(id.Scopes, s)
	}) {
		return &DeniedError{"missing required scope (any of: " + strings.Join(a.RequiredScopesAny, ", ") + ")"}
	}
	return a.checkResource(id)
}

func (a Access) checkResource(id *Identity) error {
	switch {
	case a.ResourceType != nil && a.ResourceAction != nil:
		if !slices.Contains(id.Resources[*a.ResourceType], *a.ResourceAction) {
			return &DeniedError{"missing resource: " + *a.ResourceType + "/" + *a.ResourceAction}
		}
	case a.ResourceType != nil:
		if len(id.Resources[*a.ResourceType]) == 0 {
			return &DeniedError{"missing resource: " + *a.ResourceType}
		}
	case a.ResourceAction != nil:
		for _, actions := range id.Resources {
			if slices.Contains(actions, *a.ResourceAction) {
				return nil
			}
		}
		return &DeniedError{"missing resource action: " + *a.ResourceAction}
	}
	return nil
}

// MarshalJSON writes the form of CALL-59 whichever JSON package calls it: all
// four members; required_scopes is a list, the others are null when absent.
func (a Access) MarshalJSON() ([]byte, error) {
	type plain Access
	p := plain(a)
	if p.RequiredScopes == nil {
		p.RequiredScopes = []string{}
	}
	return json.Marshal(p, json.FormatNilSliceAsNull(true))
}
