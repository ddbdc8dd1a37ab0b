package call

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// maxSchemaWork bounds how many subschemas one step of an evaluation visits.
const maxSchemaWork = 10_000

// checkBounds refuses a schema whose evaluation could take longer than the size
// of schema and input explains: references that double at each step, and
// recursion that descends into the same part of the input more than once.
// References must point into the schema itself.
//
// The schema becomes a graph. An edge is in place ($ref, allOf, …) when both
// ends look at the same value, else it descends into the class of parts it
// names. Then: in-place edges form no cycle; the number of visits, all
// references expanded and recursion aside, is bounded; and from any subschema
// at most one path of in-place edges and one descent leads back into its own
// cycle for each part of the input.
func checkBounds(doc any) error {
	g := &schemaGraph{doc: doc, nodes: map[string]*schemaNode{}}
	root, err := g.node("", doc)
	if err != nil {
		return err
	}
	g.components(root)
	for _, n := range g.all {
		work, err := n.visits()
		if err != nil {
			return err
		}
		if work > maxSchemaWork {
			return errors.New("too many references to expand")
		}
	}
	for _, n := range g.all {
		if n.branches() {
			return fmt.Errorf("#%s: recursion branches on the same value", n.at)
		}
	}
	return nil
}

// Classes of descents: a property's is propertyClass and its name.
const (
	inPlace       = ""
	itemClass     = "item"
	nameClass     = "name"
	contentClass  = "content"
	propertyClass = "property:"
	anyProperty   = "property"
)

type schemaGraph struct {
	doc   any
	nodes map[string]*schemaNode // by JSON pointer
	all   []*schemaNode

	// Tarjan's algorithm
	counter int
	stack   []*schemaNode
}

type schemaNode struct {
	at    string
	edges []schemaEdge

	index, low, component int
	onStack               bool

	work    int // visits, 0 until known
	walking bool
}

type schemaEdge struct {
	class string
	to    *schemaNode
}

// node returns the graph of the subschema v at a pointer.
func (g *schemaGraph) node(at string, v any) (*schemaNode, error) {
	if n := g.nodes[at]; n != nil {
		return n, nil
	}
	if strings.Count(at, "/") > maxSchemaDepth {
		return nil, fmt.Errorf("#%s…: nested too deep", at[:32])
	}
	n := &schemaNode{at: at, component: -1, index: -1}
	g.nodes[at] = n
	g.all = append(g.all, n)
	obj, ok := v.(map[string]any)
	if !ok {
		return n, nil
	}
	for keyword, value := range obj {
		if err := g.keyword(n, keyword, value); err != nil {
			return nil, err
		}
	}
	return n, nil
}

func (g *schemaGraph) keyword(n *schemaNode, keyword string, value any) error {
	switch keyword {
	case "$dynamicRef", "$recursiveRef":
		return fmt.Errorf("#%s: %s is not supported", n.at, keyword)
	case "$id":
		if n.at != "" {
			return fmt.Errorf("#%s: $id is supported at the root only", n.at)
		}
	case "$ref":
		return g.reference(n, value)
	case "allOf", "anyOf", "oneOf":
		return g.list(n, keyword, inPlace, value)
	case "not", "if", "then", "else":
		return g.child(n, keyword, inPlace, value)
	case "dependentSchemas", "dependencies":
		return g.named(n, keyword, func(string) string { return inPlace }, value)
	case "properties":
		return g.named(n, keyword, func(name string) string { return propertyClass + name }, value)
	case "patternProperties":
		return g.named(n, keyword, func(string) string { return anyProperty }, value)
	case "additionalProperties", "unevaluatedProperties":
		return g.child(n, keyword, anyProperty, value)
	case "propertyNames":
		return g.child(n, keyword, nameClass, value)
	case "contentSchema":
		return g.child(n, keyword, contentClass, value)
	case "prefixItems":
		return g.list(n, keyword, itemClass, value)
	case "items", "additionalItems", "contains", "unevaluatedItems":
		if _, many := value.([]any); many {
			return g.list(n, keyword, itemClass, value)
		}
		return g.child(n, keyword, itemClass, value)
	}
	return nil
}

func (g *schemaGraph) child(n *schemaNode, keyword, class string, value any) error {
	return g.link(n, n.at+"/"+token(keyword), class, value)
}

func (g *schemaGraph) list(n *schemaNode, keyword, class string, value any) error {
	items, _ := value.([]any)
	for i, item := range items {
		if err := g.link(n, n.at+"/"+token(keyword)+"/"+strconv.Itoa(i), class, item); err != nil {
			return err
		}
	}
	return nil
}

func (g *schemaGraph) named(n *schemaNode, keyword string, class func(string) string, value any) error {
	members, _ := value.(map[string]any)
	for name, member := range members {
		if err := g.link(n, n.at+"/"+token(keyword)+"/"+token(name), class(name), member); err != nil {
			return err
		}
	}
	return nil
}

func (g *schemaGraph) link(n *schemaNode, at, class string, value any) error {
	to, err := g.node(at, value)
	if err != nil {
		return err
	}
	n.edges = append(n.edges, schemaEdge{class, to})
	return nil
}

// reference follows "#" or "#/…".
func (g *schemaGraph) reference(n *schemaNode, value any) error {
	ref, _ := value.(string)
	fragment, local := strings.CutPrefix(ref, "#")
	at, err := url.PathUnescape(fragment)
	if !local || err != nil || at != "" && at[0] != '/' {
		return fmt.Errorf("#%s: $ref %q does not point into the schema (#/…)", n.at, ref)
	}
	target := g.doc
	var canonical strings.Builder
	for _, t := range strings.Split(at, "/")[1:] {
		name := strings.NewReplacer("~1", "/", "~0", "~").Replace(t)
		canonical.WriteString("/" + token(name))
		ok := false
		switch v := target.(type) {
		case map[string]any:
			target, ok = v[name]
		case []any:
			var i int
			if i, err = strconv.Atoi(name); err == nil && i >= 0 && i < len(v) {
				target, ok = v[i], true
			}
		}
		if !ok {
			return fmt.Errorf("#%s: $ref %q points to nothing", n.at, ref)
		}
	}
	return g.link(n, canonical.String(), inPlace, target)
}

// token escapes a name for a JSON pointer.
func token(name string) string {
	return strings.NewReplacer("~", "~0", "/", "~1").Replace(name)
}

// components numbers the strongly connected components below n.
func (g *schemaGraph) components(n *schemaNode) {
	n.index, n.low = g.counter, g.counter
	g.counter++
	g.stack = append(g.stack, n)
	n.onStack = true
	for _, e := range n.edges {
		if e.to.index < 0 {
			g.components(e.to)
			n.low = min(n.low, e.to.low)
		} else if e.to.onStack {
			n.low = min(n.low, e.to.index)
		}
	}
	if n.low != n.index {
		return
	}
	for {
		last := g.stack[len(g.stack)-1]
		g.stack = g.stack[:len(g.stack)-1]
		last.onStack = false
		last.component = n.index
		if last == n {
			return
		}
	}
}

// visits counts the subschemas one evaluation of n visits, each reference
// expanded; descents within the same cycle are left out, as the input pays for
// them.
func (n *schemaNode) visits() (int, error) {
	if n.walking {
		return 0, fmt.Errorf("#%s: refers to itself", n.at)
	}
	if n.work > 0 {
		return n.work, nil
	}
	n.walking = true
	defer func() { n.walking = false }()
	work := 1
	for _, e := range n.edges {
		if e.class != inPlace && e.to.component == n.component {
			continue
		}
		w, err := e.to.visits()
		if err != nil {
			return 0, err
		}
		work = min(work+w, maxSchemaWork+1)
	}
	n.work = work
	return work, nil
}

// branches reports whether an evaluation of n can come back to n's cycle twice
// for the same part of the input.
func (n *schemaNode) branches() bool {
	count := map[string]int{}
	var walk func(*schemaNode)
	walk = func(m *schemaNode) {
		for _, e := range m.edges {
			switch {
			case e.to.component != n.component:
			case e.class == inPlace:
				walk(e.to)
			default:
				count[e.class]++
			}
		}
	}
	walk(n) // bounded by visits
	wild := count[anyProperty]
	delete(count, anyProperty)
	return wild > 1 || slices.ContainsFunc(values(count, wild), func(c int) bool { return c > 1 })
}

// values lists how often each class is entered; properties of one name are
// entered by the patterns for any name too.
func values(count map[string]int, wild int) []int {
	list := make([]int, 0, len(count))
	for class, c := range count {
		if strings.HasPrefix(class, propertyClass) {
			c += wild
		}
		list = append(list, c)
	}
	return list
}
