package arch_test

import (
	"go/ast"
	"go/token"
	"testing"
)

func TestOnePackageComment(t *testing.T) {
	for folder, files := range theTree(t).packages() {
		var have []string
		for _, f := range files {
			if f.ast.Doc != nil {
				have = append(have, f.path)
			}
		}
		if len(have) != 1 {
			t.Errorf("package %s needs exactly one package comment, has %d: %v", folder, len(have), have)
		}
	}
}

func TestExportedNamesDocumented(t *testing.T) {
	tr := theTree(t)
	for _, f := range tr.sources() {
		for _, decl := range f.ast.Decls {
			switch d := decl.(type) {
			case *ast.FuncDecl:
				if d.Doc == nil && d.Name.IsExported() && exportedReceiver(d) {
					t.Errorf("%s: %s is exported without a comment", tr.at(d), d.Name.Name)
				}
			case *ast.GenDecl:
				for _, spec := range d.Specs {
					if name := undocumented(d, spec); name != nil {
						t.Errorf("%s: %s is exported without a comment", tr.at(name), name.Name)
					}
				}
			}
		}
	}
}

// exportedReceiver reports whether d is a function, or a method that users of
// the package can see.
func exportedReceiver(d *ast.FuncDecl) bool {
	if d.Recv == nil || len(d.Recv.List) == 0 {
		return true
	}
	typ := d.Recv.List[0].Type
	for {
		switch x := typ.(type) {
		case *ast.StarExpr:
			typ = x.X
		case *ast.IndexExpr:
			typ = x.X
		case *ast.IndexListExpr:
			typ = x.X
		case *ast.ParenExpr:
			typ = x.X
		case *ast.Ident:
			return x.IsExported()
		default:
			return true
		}
	}
}

// undocumented returns an exported name of spec that no comment covers. A
// comment over a group covers its constants and variables, never its types.
func undocumented(d *ast.GenDecl, spec ast.Spec) *ast.Ident {
	switch s := spec.(type) {
	case *ast.TypeSpec:
		if s.Name.IsExported() && s.Doc == nil && (d.Lparen.IsValid() || d.Doc == nil) {
			return s.Name
		}
	case *ast.ValueSpec:
		if d.Doc != nil || s.Doc != nil || (s.Comment != nil && d.Tok == token.CONST) {
			return nil
		}
		for _, name := range s.Names {
			if name.IsExported() {
				return name
			}
		}
	}
	return nil
}
