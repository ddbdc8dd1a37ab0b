package arch_test

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

const module = "github.com/alkdev/alknet-p2p"

// goFile is one parsed Go file. Paths are relative to the root, with slashes.
type goFile struct {
	path string
	pkg  string // its folder, "." for the root
	test bool
	ast  *ast.File
}

// tree is the whole repository as its files stand on disk.
type tree struct {
	root  string
	fset  *token.FileSet
	goFs  []*goFile
	texts map[string][]byte // every text file, by path
}

var load = sync.OnceValues(readTree)

func theTree(t *testing.T) *tree {
	t.Helper()
	tr, err := load()
	require.NoError(t, err)
	return tr
}

func readTree() (*tree, error) {
	root, err := filepath.Abs("../..")
	if err != nil {
		return nil, err
	}
	tr := &tree{root: root, fset: token.NewFileSet(), texts: map[string][]byte{}}
	err = filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, name)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		if d.IsDir() {
			if rel == ".git" || rel == "bin" || d.Name() == "node_modules" {
				return filepath.SkipDir
			}
			return nil
		}
		if !d.Type().IsRegular() || rel == ".git" { // a file in a second work tree
			return nil
		}
		return tr.read(rel)
	})
	return tr, err
}

// read takes one file in. A file that vanishes meanwhile is no error: editors
// and other tests make files that come and go.
func (tr *tree) read(rel string) error {
	src, err := os.ReadFile(filepath.Join(tr.root, filepath.FromSlash(rel)))
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if bytes.IndexByte(src, 0) >= 0 {
		return nil // not text
	}
	tr.texts[rel] = src
	if !strings.HasSuffix(rel, ".go") || strings.Contains("/"+rel, "/testdata/") {
		return nil
	}
	file, err := parser.ParseFile(tr.fset, rel, src, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return fmt.Errorf("parse %s: %w", rel, err)
	}
	tr.goFs = append(tr.goFs, &goFile{
		path: rel, pkg: path.Dir(rel), test: strings.HasSuffix(rel, "_test.go"), ast: file,
	})
	return nil
}

// packages maps each folder to its non-test files.
func (tr *tree) packages() map[string][]*goFile {
	pkgs := map[string][]*goFile{}
	for _, f := range tr.goFs {
		if !f.test {
			pkgs[f.pkg] = append(pkgs[f.pkg], f)
		}
	}
	return pkgs
}

func (tr *tree) sources() []*goFile {
	return slices.DeleteFunc(slices.Clone(tr.goFs), func(f *goFile) bool { return f.test })
}

// at is the place of a node, for a message.
func (tr *tree) at(n ast.Node) string {
	p := tr.fset.Position(n.Pos())
	return fmt.Sprintf("%s:%d", p.Filename, p.Line)
}

// imports are the import paths of a file by the name it uses for them.
func (f *goFile) imports() map[string]string {
	names := map[string]string{}
	for _, spec := range f.ast.Imports {
		p, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			continue
		}
		name := path.Base(p)
		if spec.Name != nil {
			name = spec.Name.Name
		}
		names[name] = p
	}
	return names
}

// uses calls found for each mention of pkg.Name, with pkg as its import path.
func (f *goFile) uses(found func(n ast.Node, pkg, name string)) {
	imports := f.imports()
	ast.Inspect(f.ast, func(n ast.Node) bool {
		sel, ok := n.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		if id, ok := sel.X.(*ast.Ident); ok {
			if p, ok := imports[id.Name]; ok {
				found(sel, p, sel.Sel.Name)
			}
		}
		return true
	})
}

// under reports whether the folder is dir or below it.
func under(folder, dir string) bool {
	return folder == dir || strings.HasPrefix(folder, dir+"/")
}
