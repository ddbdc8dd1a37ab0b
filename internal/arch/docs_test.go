package arch_test

import (
	"bytes"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// packageRow is the first cell of a row of ARCHITECTURE.md's package tables.
var packageRow = regexp.MustCompile("(?m)^\\| `([a-z0-9/-]+)` \\|")

func TestArchitectureNamesEveryPackage(t *testing.T) {
	tr := theTree(t)
	text, ok := tr.texts["ARCHITECTURE.md"]
	require.True(t, ok, "ARCHITECTURE.md is missing")
	named := map[string]bool{}
	for _, m := range packageRow.FindAllSubmatch(text, -1) {
		named[string(m[1])] = true
	}
	pkgs := tr.packages()
	for folder := range pkgs {
		if !named[folder] {
			t.Errorf("ARCHITECTURE.md has no row for package %s", folder)
		}
	}
	for folder := range named {
		if len(pkgs[folder]) == 0 {
			t.Errorf("ARCHITECTURE.md names %s, which is no package", folder)
		}
	}
}

// The README's Go is the body of node's example, which the tests compile and
// run; the markers are "// README begin" and "// README end".
func TestReadmeExampleIsTheTestedOne(t *testing.T) {
	tr := theTree(t)
	_, rest, found := bytes.Cut(tr.texts["README.md"], []byte("\n```go\n"))
	require.True(t, found, "README.md has no Go example")
	fence, after, found := bytes.Cut(rest, []byte("\n```\n"))
	require.True(t, found, "README.md: the Go example does not end")
	require.False(t, bytes.Contains(after, []byte("\n```go\n")), "README.md: one Go example, no more")

	const file = "node/example_test.go"
	example, found := tr.texts[file]
	require.True(t, found, "%s: the README's example must be compiled and run", file)
	_, rest, found = bytes.Cut(example, []byte("// README begin\n"))
	require.True(t, found, "%s: no line // README begin", file)
	body, _, found := bytes.Cut(rest, []byte("// README end"))
	require.True(t, found, "%s: no line // README end", file)

	require.Equal(t, dedent(string(body)), dedent(string(fence)))
	require.LessOrEqual(t, len(strings.Split(dedent(string(fence)), "\n")), 20, "an example to read at a glance")
}

// dedent takes away the white space that all lines share, and at the ends.
func dedent(text string) string {
	lines := strings.Split(strings.Trim(strings.ReplaceAll(text, "    ", "\t"), "\n"), "\n")
	for len(lines) > 0 && strings.TrimSpace(lines[len(lines)-1]) == "" {
		lines = lines[:len(lines)-1]
	}
	for slices.ContainsFunc(lines, func(l string) bool { return l != "" }) &&
		!slices.ContainsFunc(lines, func(l string) bool { return l != "" && l[0] != '\t' }) {
		for i := range lines {
			lines[i] = strings.TrimPrefix(lines[i], "\t")
		}
	}
	return strings.Join(lines, "\n")
}

var (
	markdownLink = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	codeFence    = regexp.MustCompile("(?ms)^```.*?^```")
)

func TestMarkdownLinksResolve(t *testing.T) {
	tr := theTree(t)
	for name, text := range tr.texts {
		if !strings.HasSuffix(name, ".md") {
			continue
		}
		for _, m := range markdownLink.FindAllSubmatch(codeFence.ReplaceAll(text, nil), -1) {
			target, _, _ := strings.Cut(string(m[1]), "#")
			if target == "" || strings.Contains(target, "://") || strings.HasPrefix(target, "mailto:") {
				continue
			}
			file := filepath.Join(tr.root, filepath.FromSlash(path.Join(path.Dir(name), target)))
			if _, err := os.Stat(file); err != nil {
				t.Errorf("%s links to %s, which is not there", name, m[1])
			}
		}
	}
}

var (
	ruleID  = regexp.MustCompile(`\b(?:CALL|NODE|PATH|VAULT)-[0-9]+\b`)
	ruleDef = regexp.MustCompile(`\*\*((?:CALL|NODE|PATH|VAULT)-[0-9]+)\*\*`)
)

// A rule that is cited stands, once, in docs/spec.
func TestCitedRulesExist(t *testing.T) {
	tr := theTree(t)
	defined := map[string]string{}
	for name, text := range tr.texts {
		if !under(name, "docs/spec") {
			continue
		}
		for _, m := range ruleDef.FindAllSubmatch(text, -1) {
			id := string(m[1])
			if where, twice := defined[id]; twice {
				t.Errorf("%s stands in %s and in %s", id, where, name)
			}
			defined[id] = name
		}
	}
	require.NotEmpty(t, defined)
	for name, text := range tr.texts {
		if ext := path.Ext(name); ext != ".go" && ext != ".md" {
			continue
		}
		for _, id := range ruleID.FindAllString(string(text), -1) {
			if defined[id] == "" {
				t.Errorf("%s cites %s, which no file of docs/spec defines", name, id)
			}
		}
	}
}

// The tree speaks of the project, not of the machine it was written on.
func TestNoMachinePaths(t *testing.T) {
	tr := theTree(t)
	machine := regexp.MustCompile(`(?:^|[\s"'` + "`" + `(=:])/(?:work|root|home|Users)/[A-Za-z0-9._-]+`)
	for name, text := range tr.texts {
		if m := machine.Find(text); m != nil {
			t.Errorf("%s holds a path of a machine: %s", name, bytes.TrimSpace(m))
		}
		if bytes.Contains(text, []byte(tr.root+"/")) {
			t.Errorf("%s holds the path of this tree", name)
		}
	}
}
