package main

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// Whatever is wrong with a line that holds a proxy's password, neither the error
// nor the excerpt beside it repeats the password.
func TestConfigErrorsHidePasswords(t *testing.T) {
	for text, want := range map[string]string{
		`proxy = "https://me:secret@proxy.office"`:                 " 1 | proxy = …\n   |         ^",
		`proxi = "http://me:secret@proxy.office"`:                  " 1 | proxi = …\n   | ^",
		`proxi = "me:secret"`:                                      " 1 | proxi = …\n   | ^",
		`proxy = http://me:secret@proxy.office`:                    "",
		`proxy = "http://me:secret@proxy.office`:                   "",
		`proxy = "http://me:secret@proxy.office" 1`:                "",
		`proxy = ["http://me:secret@proxy.office"]`:                "",
		`proxy = { url = "http://me:secret@proxy.office" }`:        "",
		`proxy "http://me:secret=x@proxy.office"`:                  "",
		"proxy = \"\"\"\nhttp://me:secret=x@proxy.office\"\"\" 1":  " 2 | …\n   | ^",
		"relay = true\nrelay = true # http://me:secret@office":     "",
		"[[operation]]\nname=\"a/b\"\nhtpp=\"http://me:secret@h\"": " 3 | htpp= …\n   | ^",
		"lisen = []": " 1 | lisen = []\n   | ^",
	} {
		_, err := parseConfig("config.toml", []byte(text))
		var at *configError
		require.ErrorAs(t, err, &at, text)
		require.NotContains(t, err.Error(), "secret", text)
		require.NotContains(t, at.excerpt(), "secret", text)
		if want != "" {
			require.Equal(t, want, at.excerpt(), text)
		}
	}
}
