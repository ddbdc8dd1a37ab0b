package arch_test

import (
	"cmp"
	"flag"
	"fmt"
	"go/ast"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var updateRules = flag.Bool("arch.update", false, "write the tables of rules and tests anew")

// ruleTables are the families of rules of which each must have a test, the
// specification they stand in, and where the table of both is.
var ruleTables = []struct{ family, spec, table string }{
	{"CALL", "docs/spec/call-protocol.md", "docs/call-rules.md"},
}

// Every rule has a test that names it, and the table says which.
func TestEveryRuleHasATest(t *testing.T) {
	tr := theTree(t)
	for _, family := range ruleTables {
		tests := tr.ruleTests(family.family)
		var table strings.Builder
		fmt.Fprintf(&table, "# %s: which tests show which rule\n\n", family.family)
		fmt.Fprintf(&table, "Every rule of [%s](%s) has a test that names it, in its own name or in a comment.\n", path.Base(family.spec), strings.TrimPrefix(family.spec, "docs/"))
		table.WriteString("This table is written by `make rules`.\n\n| rule | says | shown by |\n|---|---|---|\n")
		for _, r := range tr.rules(t, family.family, family.spec) {
			if len(tests[r.number]) == 0 {
				t.Errorf("%s-%d has no test that names it", family.family, r.number)
			}
			fmt.Fprintf(&table, "| %s-%d | %s | %s |\n", family.family, r.number, r.gist, strings.Join(tests[r.number], ", "))
		}
		if *updateRules {
			require.NoError(t, os.WriteFile(filepath.Join(tr.root, filepath.FromSlash(family.table)), []byte(table.String()), 0o644))
			continue
		}
		if string(tr.texts[family.table]) != table.String() {
			t.Errorf("%s does not say what the tests are; write it anew with: make rules", family.table)
		}
	}
}

// So has every rule of who a peer is and what it may do: NODE-16 to NODE-37, and
// those of admission and tickets.
func TestRulesOfPeersHaveTests(t *testing.T) {
	tests := theTree(t).ruleTests("NODE")
	for n := 16; n <= 68; n++ {
		if n > 37 && n != 54 && n < 67 {
			continue
		}
		if len(tests[n]) == 0 {
			t.Errorf("NODE-%d has no test that names it", n)
		}
	}
}

// rule is one rule of a specification.
type rule struct {
	number int
	gist   string // its beginning
}

// rules lists the rules of a family in the order of their numbers.
func (tr *tree) rules(t *testing.T, family, spec string) []rule {
	t.Helper()
	definition := regexp.MustCompile(`(?m)^- \*\*` + family + `-([0-9]+)\*\* (.*)$`)
	var list []rule
	for _, m := range definition.FindAllStringSubmatch(string(tr.texts[spec]), -1) {
		n, err := strconv.Atoi(m[1])
		require.NoError(t, err)
		list = append(list, rule{n, gist(m[2])})
	}
	require.NotEmpty(t, list)
	slices.SortFunc(list, func(a, b rule) int { return cmp.Compare(a.number, b.number) })
	for i, r := range list {
		require.Equal(t, list[0].number+i, r.number, "the rules of %s are numbered without a gap", spec)
	}
	return list
}

// gist is the beginning of a text, as it fits a table.
func gist(text string) string {
	const most = 70
	text = strings.NewReplacer("|", "", "`", "", "*", "").Replace(text)
	if sentence, _, ok := strings.Cut(text, ". "); ok {
		text = sentence
	}
	runes := []rune(strings.TrimSuffix(text, "."))
	if len(runes) <= most {
		return string(runes)
	}
	cut := string(runes[:most])
	return cut[:strings.LastIndexByte(cut, ' ')] + " …"
}

// ruleTests finds, by a rule's number, the tests that name it: in the name of
// the function, in its comment or inside it, or in a transcript.
func (tr *tree) ruleTests(family string) map[int][]string {
	inName := regexp.MustCompile(family + `([0-9]+)`)
	inText := regexp.MustCompile(family + `-([0-9]+)\b`)
	found := map[int][]string{}
	add := func(ids [][]string, test string) {
		for _, m := range ids {
			if n, err := strconv.Atoi(m[1]); err == nil && !slices.Contains(found[n], test) {
				found[n] = append(found[n], test)
			}
		}
	}
	for _, f := range tr.goFs {
		if !f.test || under(f.pkg, "internal/arch") {
			continue
		}
		for _, decl := range f.ast.Decls {
			d, ok := decl.(*ast.FuncDecl)
			if !ok || d.Recv != nil || !isTest(d.Name.Name) {
				continue
			}
			test := f.pkg + ": `" + d.Name.Name + "`"
			add(inName.FindAllStringSubmatch(d.Name.Name, -1), test)
			for _, c := range f.ast.Comments {
				if c == d.Doc || c.Pos() >= d.Pos() && c.End() <= d.End() {
					add(inText.FindAllStringSubmatch(c.Text(), -1), test)
				}
			}
		}
	}
	for name, text := range tr.texts {
		if folder := path.Dir(name); path.Ext(name) == ".txt" && path.Base(folder) == "transcripts" {
			add(inText.FindAllStringSubmatch(string(text), -1), "transcript `"+strings.TrimSuffix(path.Base(name), ".txt")+"`")
		}
	}
	for _, tests := range found {
		slices.Sort(tests)
	}
	return found
}

func isTest(name string) bool {
	return strings.HasPrefix(name, "Test") || strings.HasPrefix(name, "Fuzz") || strings.HasPrefix(name, "Example")
}
