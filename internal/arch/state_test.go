package arch_test

import (
	"go/ast"
	"go/token"
	"slices"
	"strings"
	"testing"
)

// No secret and no setting comes from the environment; only the command may
// look at it (NO_COLOR, the XDG folders).
func TestNoEnvironmentOutsideCommand(t *testing.T) {
	tr := theTree(t)
	for _, f := range tr.sources() {
		if under(f.pkg, "cmd") {
			continue
		}
		f.uses(func(n ast.Node, pkg, name string) {
			switch pkg {
			case "os", "syscall", "golang.org/x/sys/unix", "golang.org/x/sys/windows":
			default:
				return
			}
			switch name {
			case "Getenv", "LookupEnv", "Environ", "ExpandEnv", "Setenv", "Unsetenv", "Clearenv",
				"UserHomeDir", "UserConfigDir", "UserCacheDir", "TempDir":
				t.Errorf("%s: %s.%s depends on the environment", tr.at(n), pkg, name)
			}
		})
	}
}

func TestNoInit(t *testing.T) {
	tr := theTree(t)
	for _, f := range tr.sources() {
		for _, decl := range f.ast.Decls {
			if d, ok := decl.(*ast.FuncDecl); ok && d.Recv == nil && d.Name.Name == "init" {
				t.Errorf("%s: nothing happens by being imported; call it from where it is needed", tr.at(d))
			}
		}
	}
}

// The standard library's JSON lets the last of two equal members win and
// matches names in any case, so two readers may see two messages (CALL-8).
func TestPeerInputIsDecodedStrictly(t *testing.T) {
	tr := theTree(t)
	for _, f := range tr.sources() {
		if !under(f.pkg, "protocols") && !under(f.pkg, "transport") && !under(f.pkg, "node") {
			continue
		}
		f.uses(func(n ast.Node, pkg, name string) {
			if pkg == "encoding/json" && (name == "Unmarshal" || name == "NewDecoder" || name == "Decoder") {
				t.Errorf("%s: use github.com/go-json-experiment/json to read what a peer sent", tr.at(n))
			}
		})
	}
}

// variables are the package variables that are neither errors nor constants
// in all but name, each with the reason it may exist.
var variables = map[string]string{
	"transport/magic.Addr": "libp2p's table of multiaddr protocols is global, and must not change while addresses are parsed",
}

// constructors make values that nothing changes afterwards.
var constructors = []string{
	"embed.FS", "encoding/base32.NewEncoding", "encoding/base64.NewEncoding", "errors.New", "fmt.Errorf",
	"net/netip.AddrPortFrom", "net/netip.MustParseAddr", "net/netip.MustParsePrefix", "regexp.MustCompile", "strings.NewReplacer", "time.Date", "time.Unix",
}

func TestNoPackageState(t *testing.T) {
	tr := theTree(t)
	seen := map[string]bool{}
	for folder, files := range tr.packages() {
		written := writtenNames(files)
		for _, f := range files {
			for _, decl := range f.ast.Decls {
				d, ok := decl.(*ast.GenDecl)
				if !ok || d.Tok != token.VAR {
					continue
				}
				for _, spec := range d.Specs {
					for i, name := range spec.(*ast.ValueSpec).Names {
						if constant(f, d, spec.(*ast.ValueSpec), i, written) {
							continue
						}
						key := folder + "." + name.Name
						if seen[key] = true; variables[key] == "" {
							t.Errorf("%s: package state %s; keep it in a value that somebody owns", tr.at(name), name.Name)
						}
					}
				}
			}
		}
	}
	for key, why := range variables {
		folder, _, _ := strings.Cut(key, ".")
		if !seen[key] && len(tr.packages()[folder]) > 0 {
			t.Errorf("%s (%s) is allowed but not there: strike it off", key, why)
		}
	}
}

// constant reports whether the i-th variable of spec never changes: an error,
// a compiled pattern, embedded files, or a literal that no code writes to. A
// pool of spare memory counts as one: it means nothing to anybody.
func constant(f *goFile, d *ast.GenDecl, spec *ast.ValueSpec, i int, written map[string]bool) bool {
	name := spec.Names[i].Name
	if name == "_" || embeds(d.Doc) || embeds(spec.Doc) {
		return true
	}
	if written[name] || i >= len(spec.Values) {
		return false
	}
	value := spec.Values[i]
	if ref, ok := value.(*ast.UnaryExpr); ok && ref.Op == token.AND && strings.HasPrefix(name, "Err") {
		value = ref.X
	}
	return fixedValue(f, value)
}

func fixedValue(f *goFile, value ast.Expr) bool {
	switch v := value.(type) {
	case *ast.BasicLit, *ast.Ident:
		return true
	case *ast.SelectorExpr:
		return true // a name of another package, such as base64.RawURLEncoding
	case *ast.BinaryExpr:
		return fixedValue(f, v.X) && fixedValue(f, v.Y)
	case *ast.CompositeLit:
		return !lock(f, v)
	case *ast.CallExpr:
		return fixedCall(f, v)
	}
	return false
}

// fixedCall reports whether the call only builds a value: a known constructor,
// a method chained on one, or a conversion such as []byte("x").
func fixedCall(f *goFile, call *ast.CallExpr) bool {
	switch fun := call.Fun.(type) {
	case *ast.ArrayType:
		return true
	case *ast.SelectorExpr:
		switch x := fun.X.(type) {
		case *ast.CallExpr:
			return fixedCall(f, x)
		case *ast.SelectorExpr: // base32.HexEncoding.WithPadding
			id, ok := x.X.(*ast.Ident)
			return ok && strings.HasPrefix(f.imports()[id.Name], "encoding/")
		case *ast.Ident:
			return slices.Contains(constructors, f.imports()[x.Name]+"."+fun.Sel.Name)
		}
	}
	return false
}

func embeds(doc *ast.CommentGroup) bool {
	return doc != nil && slices.ContainsFunc(doc.List, func(c *ast.Comment) bool {
		return strings.HasPrefix(c.Text, "//go:embed ")
	})
}

// lock reports whether the literal is of a type that exists to change.
func lock(f *goFile, lit *ast.CompositeLit) bool {
	sel, ok := lit.Type.(*ast.SelectorExpr)
	if !ok {
		return false
	}
	id, ok := sel.X.(*ast.Ident)
	return ok && under(f.imports()[id.Name], "sync") && sel.Sel.Name != "Pool"
}

// writtenNames are the names that some function of the package assigns to,
// counts up or takes the address of. It goes by name alone, so a local
// variable of the same name counts too: choose another name.
func writtenNames(files []*goFile) map[string]bool {
	written := map[string]bool{}
	mark := func(e ast.Expr) {
		for {
			switch x := e.(type) {
			case *ast.Ident:
				written[x.Name] = true
				return
			case *ast.IndexExpr:
				e = x.X
			case *ast.SelectorExpr:
				e = x.X
			case *ast.StarExpr:
				e = x.X
			case *ast.ParenExpr:
				e = x.X
			default:
				return
			}
		}
	}
	for _, f := range files {
		for _, decl := range f.ast.Decls {
			d, ok := decl.(*ast.FuncDecl)
			if !ok || d.Body == nil {
				continue
			}
			ast.Inspect(d.Body, func(n ast.Node) bool {
				switch s := n.(type) {
				case *ast.AssignStmt:
					if s.Tok != token.DEFINE {
						for _, lhs := range s.Lhs {
							mark(lhs)
						}
					}
				case *ast.IncDecStmt:
					mark(s.X)
				case *ast.UnaryExpr:
					if s.Op == token.AND {
						mark(s.X)
					}
				}
				return true
			})
		}
	}
	return written
}
