package arch_test

import (
	"go/ast"
	"slices"
	"strings"
	"testing"
)

// A package that starts goroutines shows in its tests that none stays behind.
func TestGoroutinesAreAwaited(t *testing.T) {
	tr := theTree(t)
	starts, checked := map[string]string{}, map[string]bool{}
	for _, f := range tr.goFs {
		if f.test {
			f.uses(func(_ ast.Node, pkg, name string) {
				if pkg == "go.uber.org/goleak" && strings.HasPrefix(name, "Verify") {
					checked[f.pkg] = true
				}
			})
			continue
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			switch s := n.(type) {
			case *ast.GoStmt:
				starts[f.pkg] = tr.at(s)
			case *ast.CallExpr:
				if sel, ok := s.Fun.(*ast.SelectorExpr); ok && sel.Sel.Name == "Go" {
					starts[f.pkg] = tr.at(s)
				}
			}
			return true
		})
	}
	for pkg, at := range starts {
		if !checked[pkg] {
			t.Errorf("%s starts goroutines, but no test of %s calls goleak", at, pkg)
		}
	}
}

// A fuzz target starts from real input, given by f.Add or as files.
func TestFuzzTargetsHaveSeeds(t *testing.T) {
	tr := theTree(t)
	for _, f := range tr.goFs {
		if !f.test {
			continue
		}
		for _, decl := range f.ast.Decls {
			d, ok := decl.(*ast.FuncDecl)
			if !ok || d.Recv != nil || !strings.HasPrefix(d.Name.Name, "Fuzz") {
				continue
			}
			if !seeded(d) && !tr.hasFolder(f.pkg+"/testdata/fuzz/"+d.Name.Name) {
				t.Errorf("%s: %s has no seeds", tr.at(d), d.Name.Name)
			}
		}
	}
}

// seeded reports whether d adds seeds, itself or through a helper that is
// handed the *testing.F.
func seeded(d *ast.FuncDecl) (found bool) {
	if len(d.Type.Params.List) != 1 || len(d.Type.Params.List[0].Names) != 1 {
		return false
	}
	f := d.Type.Params.List[0].Names[0].Name
	ast.Inspect(d.Body, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		if sel, ok := call.Fun.(*ast.SelectorExpr); ok && sel.Sel.Name == "Add" && named(sel.X, f) {
			found = true
		}
		for _, arg := range call.Args {
			found = found || named(arg, f)
		}
		return true
	})
	return found
}

func named(e ast.Expr, name string) bool {
	id, ok := e.(*ast.Ident)
	return ok && id.Name == name
}

func (tr *tree) hasFolder(folder string) bool {
	for p := range tr.texts {
		if strings.HasPrefix(p, folder+"/") {
			return true
		}
	}
	return false
}

// untested are packages without tests of their own.
var untested = map[string]string{
	"vault/internal/wipe": "two calls, which the tests of vault go through",
}

func TestPackagesHaveTests(t *testing.T) {
	tr := theTree(t)
	tested := map[string]bool{}
	for _, f := range tr.goFs {
		if f.test {
			tested[f.pkg] = true
		}
	}
	for folder, files := range tr.packages() {
		if !tested[folder] && untested[folder] == "" && slices.ContainsFunc(files, hasCode) {
			t.Errorf("package %s has code and no test", folder)
		}
	}
}

func hasCode(f *goFile) bool {
	return slices.ContainsFunc(f.ast.Decls, func(d ast.Decl) bool {
		fn, ok := d.(*ast.FuncDecl)
		return ok && fn.Body != nil
	})
}
