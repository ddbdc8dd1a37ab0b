package wire

import (
	"bytes"
	"encoding/binary"
	"unicode/utf8"
)

// maxDepth bounds the nesting of JSON values; it equals jsontext's own bound.
const maxDepth = 10000

// Valid reports whether b is exactly one JSON value: RFC 8259 grammar, strict
// UTF-8, no lone surrogates, nesting up to 10,000. It accepts duplicate object
// members; those matter to whoever decodes the value.
func Valid(b []byte) bool {
	i := space(b, 0)
	i = value(b, i, 0)
	return i >= 0 && space(b, i) == len(b)
}

// space returns the index of the first byte at or after i that is not blank.
func space(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\n' || b[i] == '\r' || b[i] == '\t') {
		i++
	}
	return i
}

// value returns the index after the JSON value at i, or -1.
func value(b []byte, i, depth int) int {
	if i >= len(b) || depth > maxDepth {
		return -1
	}
	switch c := b[i]; c {
	case '{':
		return object(b, i, depth+1, value, nil)
	case '[':
		return array(b, i, depth+1)
	case '"':
		return str(b, i)
	case 't':
		return literal(b, i, "true")
	case 'f':
		return literal(b, i, "false")
	case 'n':
		return literal(b, i, "null")
	default:
		return number(b, i)
	}
}

// object returns the index after the object at i, or -1. Member values are
// stepped over with next: value, or skip for JSON known to be valid. member is
// called with the raw name (quotes included) and the value of each; false ends
// the scan with -1.
func object(b []byte, i, depth int, next func(b []byte, i, depth int) int, member func(name, value []byte) bool) int {
	if depth > maxDepth {
		return -1
	}
	i = space(b, i+1)
	if i < len(b) && b[i] == '}' {
		return i + 1
	}
	for {
		if i >= len(b) || b[i] != '"' {
			return -1
		}
		name := i
		if i = str(b, i); i < 0 {
			return -1
		}
		nameEnd := i
		if i = space(b, i); i >= len(b) || b[i] != ':' {
			return -1
		}
		i = space(b, i+1)
		val := i
		if i = next(b, i, depth); i < 0 {
			return -1
		}
		if member != nil && !member(b[name:nameEnd], b[val:i:i]) {
			return -1
		}
		if i = space(b, i); i >= len(b) {
			return -1
		}
		switch b[i] {
		case ',':
			i = space(b, i+1)
		case '}':
			return i + 1
		default:
			return -1
		}
	}
}

func array(b []byte, i, depth int) int {
	if depth > maxDepth {
		return -1
	}
	i = space(b, i+1)
	if i < len(b) && b[i] == ']' {
		return i + 1
	}
	for {
		if i = value(b, i, depth); i < 0 {
			return -1
		}
		if i = space(b, i); i >= len(b) {
			return -1
		}
		switch b[i] {
		case ',':
			i = space(b, i+1)
		case ']':
			return i + 1
		default:
			return -1
		}
	}
}

// str returns the index after the string whose opening quote is at i, or -1.
func str(b []byte, i int) int {
	for i++; i < len(b); {
		if i+8 <= len(b) && plain(binary.LittleEndian.Uint64(b[i:])) {
			i += 8
			continue
		}
		switch c := b[i]; {
		case c == '"':
			return i + 1
		case c == '\\':
			if i = escape(b, i); i < 0 {
				return -1
			}
		case c < ' ':
			return -1
		case c < utf8.RuneSelf:
			i++
		default:
			r, n := utf8.DecodeRune(b[i:])
			if r == utf8.RuneError && n <= 1 {
				return -1
			}
			i += n
		}
	}
	return -1
}

// plain reports whether the eight bytes of x are ASCII that a string may hold
// as it is: no control, quote or backslash.
func plain(x uint64) bool {
	const ones, high = 0x0101010101010101, 0x8080808080808080
	quote, slash := x^(ones*'"'), x^(ones*'\\')
	return (x|(x-ones*' ')|(quote-ones)|(slash-ones))&high == 0
}

// escape returns the index after the escape sequence at i, or -1. A high
// surrogate must be followed by a low one.
func escape(b []byte, i int) int {
	if i+1 >= len(b) {
		return -1
	}
	switch b[i+1] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return i + 2
	case 'u':
		r := hex4(b, i+2)
		switch {
		case r < 0, r >= 0xdc00 && r <= 0xdfff:
			return -1
		case r < 0xd800 || r > 0xdbff:
			return i + 6
		}
		if i+7 >= len(b) || b[i+6] != '\\' || b[i+7] != 'u' {
			return -1
		}
		if low := hex4(b, i+8); low < 0xdc00 || low > 0xdfff {
			return -1
		}
		return i + 12
	}
	return -1
}

// hex4 is the value of the four hexadecimal digits at i, or -1.
func hex4(b []byte, i int) int {
	if i+4 > len(b) {
		return -1
	}
	n := 0
	for _, c := range b[i : i+4] {
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c >= 'a' && c <= 'f':
			c -= 'a' - 10
		case c >= 'A' && c <= 'F':
			c -= 'A' - 10
		default:
			return -1
		}
		n = n<<4 | int(c)
	}
	return n
}

func literal(b []byte, i int, want string) int {
	if len(b)-i < len(want) || string(b[i:i+len(want)]) != want {
		return -1
	}
	return i + len(want)
}

func number(b []byte, i int) int {
	if i < len(b) && b[i] == '-' {
		i++
	}
	switch {
	case i >= len(b):
		return -1
	case b[i] == '0':
		i++
	default:
		if i = digits(b, i); i < 0 {
			return -1
		}
	}
	if i < len(b) && b[i] == '.' {
		if i = digits(b, i+1); i < 0 {
			return -1
		}
	}
	if i < len(b) && (b[i] == 'e' || b[i] == 'E') {
		i++
		if i < len(b) && (b[i] == '+' || b[i] == '-') {
			i++
		}
		return digits(b, i)
	}
	return i
}

// digits returns the index after one or more digits at i, or -1.
func digits(b []byte, i int) int {
	first := i
	for i < len(b) && b[i] >= '0' && b[i] <= '9' {
		i++
	}
	if i == first {
		return -1
	}
	return i
}

// skip returns the index after the value at i of JSON that is known to be
// valid.
func skip(b []byte, i, _ int) int {
	for depth := 0; i < len(b); {
		switch b[i] {
		case '"':
			i = skipString(b, i)
		case '{', '[':
			depth++
			i++
		case '}', ']':
			depth--
			i++
		case ',', ':', ' ', '\n', '\r', '\t':
			i++
			continue
		default:
			for i < len(b) && !delimiter(b[i]) {
				i++
			}
		}
		if depth == 0 {
			return i
		}
	}
	return -1
}

// skipString returns the index after the valid string at i.
func skipString(b []byte, i int) int {
	for i++; ; {
		n := bytes.IndexByte(b[i:], '"')
		if n < 0 {
			return len(b)
		}
		i += n
		slashes := 0
		for b[i-1-slashes] == '\\' {
			slashes++
		}
		i++
		if slashes%2 == 0 {
			return i
		}
	}
}

func delimiter(c byte) bool {
	switch c {
	case ',', ':', '}', ']', ' ', '\n', '\r', '\t':
		return true
	}
	return false
}
