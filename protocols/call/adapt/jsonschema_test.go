package adapt_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/protocols/call"
	"github.com/alkdev/alknet-p2p/protocols/call/adapt"
)

const secret = "s3cret-t0ken"

// httpServer is a real server with a few services.
func httpServer(t *testing.T) *httptest.Server {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("/echo/", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		_ = json.NewEncoder(w).Encode(map[string]string{
			"method": r.Method, "uri": r.RequestURI, "body": string(body), "type": r.Header.Get("Content-Type"),
			"accept": r.Header.Get("Accept"), "trace": r.Header.Get("Traceparent"),
			"authorised": strconv.FormatBool(r.Header.Get("Authorization") == "Bearer "+secret),
		})
	})
	mux.HandleFunc("/text", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("text\xff")) })
	mux.HandleFunc("/nothing", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	mux.HandleFunc("/broken", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{"a":`)) })
	mux.HandleFunc("/twice", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{"a":1,"a":2}`)) })
	mux.HandleFunc("/cut", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		_, _ = w.Write([]byte(`{"a":`))
	})
	mux.HandleFunc("/large", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(`"` + strings.Repeat("x", 2<<20) + `"`))
	})
	mux.HandleFunc("/status/{code}", func(w http.ResponseWriter, r *http.Request) {
		var code int
		_, _ = fmt.Sscan(r.PathValue("code"), &code)
		w.WriteHeader(code)
		_, _ = w.Write([]byte(r.URL.Query().Get("body")))
	})
	mux.HandleFunc("/leak", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Has("fail") {
			w.WriteHeader(http.StatusBadRequest)
		}
		token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
		_, _ = io.WriteString(w, `"`+token[:4])
		w.(http.Flusher).Flush()
		_, _ = io.WriteString(w, token[4:]+`"`)
	})
	mux.HandleFunc("/hang", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	mux.HandleFunc("/lines", func(w http.ResponseWriter, r *http.Request) {
		for i := 0; r.Context().Err() == nil; i++ {
			_, _ = fmt.Fprintf(w, "{\"n\":%d}\n\n", i)
			w.(http.Flusher).Flush()
			if i == 2 && r.URL.Query().Get("end") != "" {
				return
			}
		}
	})
	mux.HandleFunc("/here", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "/echo/there", http.StatusTemporaryRedirect)
	})
	mux.HandleFunc("/round", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/round", http.StatusFound) })
	mux.HandleFunc("/away", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, r.URL.Query().Get("to"), http.StatusTemporaryRedirect)
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return server
}

// fromHTTP makes an operation and calls it over a session.
func fromHTTP(t *testing.T, cfg adapt.JSONSchemaConfig) *call.Session {
	t.Helper()
	if cfg.Name == "" {
		cfg.Name = "test/op"
	}
	cfg.Visibility, cfg.Scopes = call.External, []string{}
	op, err := adapt.FromJSONSchema(cfg)
	require.NoError(t, err)
	require.Equal(t, call.FromJSONSchema, op.Provenance)
	op.Capabilities = call.Capabilities{}.WithHTTPToken("github", []byte(secret))
	traced := call.Config{Interceptors: []call.Interceptor{call.Trace}}
	s, _ := join(t, protocol(t, call.Config{}), protocol(t, traced, op), known("node"), known("user"))
	return s
}

func TestFromJSONSchemaRequests(t *testing.T) {
	server := httpServer(t)
	for name, test := range map[string]struct {
		cfg   adapt.JSONSchemaConfig
		input string
		want  string
	}{
		"query": {
			adapt.JSONSchemaConfig{URL: "/echo/a?fixed=1"},
			`{"s":"a b&c","n":9007199254740993,"b":true,"list":["x",1],"no":null}`,
			`GET /echo/a?b=true&fixed=1&list=x&list=1&n=9007199254740993&s=a+b%26c  `,
		},
		"nothing":         {adapt.JSONSchemaConfig{URL: "/echo/a"}, `null`, `GET /echo/a  `},
		"no input":        {adapt.JSONSchemaConfig{URL: "/echo/a", Input: adapt.InputNone}, `{}`, `GET /echo/a  `},
		"mutation":        {adapt.JSONSchemaConfig{URL: "/echo/a", Type: call.OpMutation}, `{"z":[1.0],"a":1}`, `POST /echo/a {"z":[1.0],"a":1} application/json`},
		"any value":       {adapt.JSONSchemaConfig{URL: "/echo/a", Method: "PUT"}, `[1, 2]`, `PUT /echo/a [1, 2] application/json`},
		"mutation, empty": {adapt.JSONSchemaConfig{URL: "/echo/a", Method: "POST", Input: adapt.InputNone}, `null`, `POST /echo/a  `},
		"path":            {adapt.JSONSchemaConfig{URL: "/echo/{id}/x-{n}"}, `{"id":"a/../b?c","n":7,"q":"r"}`, `GET /echo/a%2F..%2Fb%3Fc/x-7?q=r  `},
		"path and body":   {adapt.JSONSchemaConfig{URL: "/echo/{id}", Type: call.OpMutation}, `{"b":1,"id":"ü","a":{"id":2}}`, `POST /echo/%C3%BC {"a":{"id":2},"b":1} application/json`},
		"delete":          {adapt.JSONSchemaConfig{URL: "/echo/{id}", Method: "DELETE", Type: call.OpMutation}, `{"id":"x"}`, `DELETE /echo/x  `},
		"escapes":         {adapt.JSONSchemaConfig{URL: "/echo/a%2Fb"}, `{}`, `GET /echo/a%2Fb  `},
	} {
		t.Run(name, func(t *testing.T) {
			test.cfg.URL = server.URL + test.cfg.URL
			got, err := call.Invoke[map[string]string](t.Context(), fromHTTP(t, test.cfg), "test/op", json.RawMessage(test.input))
			require.NoError(t, err)
			require.Equal(t, test.want, strings.Join([]string{got["method"], got["uri"], got["body"], got["type"]}, " "))
			require.Equal(t, "application/json", got["accept"])
			require.Equal(t, "false", got["authorised"])
		})
	}
	for name, test := range map[string]struct {
		url, input string
	}{
		"member missing": {"/echo/{id}", `{}`},
		"parent folder":  {"/echo/{id}", `{"id":".."}`},
		"this folder":    {"/echo/{id}", `{"id":"."}`},
		"empty":          {"/echo/{id}", `{"id":""}`},
		"object":         {"/echo/{id}", `{"id":{}}`},
		"nested":         {"/echo/a", `{"q":{"a":1}}`},
		"nested list":    {"/echo/a", `{"q":[[1]]}`},
		"no object":      {"/echo/a", `7`},
		"too long":       {"/echo/a", `{"q":"` + strings.Repeat("x", 17<<10) + `"}`},
		"too long path":  {"/echo/{id}", `{"id":"` + strings.Repeat("x", 17<<10) + `"}`},
	} {
		_, err := fromHTTP(t, adapt.JSONSchemaConfig{URL: server.URL + test.url}).Call(t.Context(), "test/op", json.RawMessage(test.input))
		require.ErrorIs(t, err, call.ErrInvalidInput, name)
	}
}

func TestFromJSONSchemaAnswers(t *testing.T) {
	server := httpServer(t)
	for path, want := range map[string]string{
		"/nothing": "null",
		"/broken":  "INTERNAL: the output is not JSON",
		"/twice":   "INTERNAL: the output is not JSON",
		"/large":   "INTERNAL: the output exceeds 1048576 bytes",
		"/cut":     "INTERNAL: the HTTP service does not answer as it should",
		"/here":    "there",
		"/round":   "INTERNAL: the HTTP service does not answer as it should",
	} {
		out, err := fromHTTP(t, adapt.JSONSchemaConfig{URL: server.URL + path}).Call(t.Context(), "test/op", nil)
		require.Contains(t, fmt.Sprint(string(out), err), want, path)
	}
	out, err := fromHTTP(t, adapt.JSONSchemaConfig{URL: server.URL + "/text", Output: adapt.OutputText}).Call(t.Context(), "test/op", nil)
	require.NoError(t, err)
	require.Equal(t, `{"text":"text�"}`, string(out))

	var log bytes.Buffer
	gone := httptest.NewServer(nil)
	gone.Close()
	_, err = fromHTTP(t, adapt.JSONSchemaConfig{URL: gone.URL, Logger: slog.New(slog.NewTextHandler(&log, nil))}).Call(t.Context(), "test/op", nil)
	require.EqualError(t, err, "INTERNAL: the HTTP service does not answer as it should")
	require.Contains(t, log.String(), "op=test/op")
	require.Contains(t, log.String(), "connect")
}

// CALL-53: statuses are declared errors, others are told as CALL-54 says.
func TestCALL53HTTPStatuses(t *testing.T) {
	server := httpServer(t)
	s := fromHTTP(t, adapt.JSONSchemaConfig{URL: server.URL + "/status/{code}"})
	for _, test := range []struct {
		code      int
		body      string
		want      string
		retryable bool
		details   string
	}{
		{404, `{"why":[1.0]}`, "HTTP_404: 404 Not Found", false, `{"status":404,"body":{"why":[1.0]}}`},
		{429, "slow \"down\"\n", "HTTP_429: 429 Too Many Requests", true, `{"status":429,"body":"slow \"down\""}`},
		{503, "", "HTTP_503: 503 Service Unavailable", true, `{"status":503}`},
		{500, strings.Repeat("x", 5000), "HTTP_500: 500 Internal Server Error", false, `{"status":500}`},
		{418, "tea", "INTERNAL: 418 I'm a teapot", false, `{"code":"HTTP_418","details":{"status":418,"body":"tea"}}`},
		{304, "", "INTERNAL: 304 Not Modified", false, `{"code":"HTTP_304","details":{"status":304}}`},
	} {
		_, err := s.Call(t.Context(), "test/op", map[string]any{"code": test.code, "body": test.body})
		var e *call.Error
		require.ErrorAs(t, err, &e)
		require.Equal(t, test.want, e.Error())
		require.Equal(t, test.retryable, e.Retryable)
		require.Equal(t, test.details, string(e.Details))
	}
	spec, err := s.Schema(t.Context(), "test/op")
	require.NoError(t, err)
	for _, e := range spec.Errors {
		require.Equal(t, fmt.Sprint("HTTP_", *e.HTTPStatus), string(e.Code))
	}
}

// CALL-67, CALL-99: the credential goes to the service and nowhere else.
func TestCALL99HTTPCredential(t *testing.T) {
	server := httpServer(t)
	var elsewhere []string
	other := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		elsewhere = append(elsewhere, r.Header.Get("Authorization"))
	}))
	defer other.Close()
	var log bytes.Buffer
	with := func(path string) (string, error) {
		out, err := fromHTTP(t, adapt.JSONSchemaConfig{
			URL: server.URL + path, Credential: "github", Logger: slog.New(slog.NewTextHandler(&log, nil)),
		}).Call(t.Context(), "test/op", nil)
		return string(out), err
	}
	out, err := with("/echo/a")
	require.NoError(t, err)
	require.Contains(t, out, `"authorised":"true"`)
	out, err = with("/here")
	require.NoError(t, err)
	require.Contains(t, out, `"authorised":"true"`, "the same host, redirected to")

	_, err = with("/away?to=" + other.URL)
	require.EqualError(t, err, "INTERNAL: the HTTP service does not answer as it should")
	require.Empty(t, elsewhere)

	_, err = with("/leak")
	require.EqualError(t, err, "INTERNAL: the answer holds the credential")
	_, err = with("/leak?fail=1")
	var e *call.Error
	require.ErrorAs(t, err, &e)
	require.Equal(t, `{"status":400}`, string(e.Details))
	require.NotContains(t, log.String(), secret)

	_, err = fromHTTP(t, adapt.JSONSchemaConfig{URL: server.URL + "/echo/a", Credential: "gitlab"}).Call(t.Context(), "test/op", nil)
	require.EqualError(t, err, "INTERNAL: internal error", "there is none for gitlab")
}

// No proxy is taken from the environment.
func TestHTTPIgnoresProxies(t *testing.T) {
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) }))
	defer proxy.Close()
	t.Setenv("HTTP_PROXY", proxy.URL)
	t.Setenv("http_proxy", proxy.URL)
	_, err := fromHTTP(t, adapt.JSONSchemaConfig{URL: "http://alknet.invalid/"}).Call(t.Context(), "test/op", nil)
	require.EqualError(t, err, "INTERNAL: the HTTP service does not answer as it should")
}

func TestHTTPEndsWithTheCall(t *testing.T) {
	server := httpServer(t)
	s := fromHTTP(t, adapt.JSONSchemaConfig{URL: server.URL + "/hang", Timeout: 50 * time.Millisecond, MaxConcurrent: 1})
	_, err := s.Call(t.Context(), "test/op", nil)
	require.ErrorIs(t, err, call.ErrTimeout)

	started := make(chan struct{})
	hang := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(started)
		<-r.Context().Done()
	}))
	defer hang.Close() // returns after the handler
	s = fromHTTP(t, adapt.JSONSchemaConfig{URL: hang.URL, MaxConcurrent: 1})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() {
		_, err := s.Call(ctx, "test/op", nil)
		done <- err
	}()
	<-started
	// One more than may run at a time fails at once (CALL-26).
	_, err = s.Call(t.Context(), "test/op", nil)
	var e *call.Error
	require.ErrorAs(t, err, &e)
	require.True(t, e.Retryable)
	require.Equal(t, `{"reason":"overloaded"}`, string(e.Details))
	cancel()
	require.ErrorIs(t, <-done, call.ErrAborted)
}

func TestHTTPSubscription(t *testing.T) {
	server := httpServer(t)
	cfg := adapt.JSONSchemaConfig{URL: server.URL + "/lines", Type: call.OpSubscription}
	s := fromHTTP(t, cfg)
	n := 0
	for line, err := range call.Subscribe[struct {
		N int `json:"n"`
	}](t.Context(), s, "test/op", map[string]string{"end": "yes"}) {
		require.NoError(t, err)
		require.Equal(t, n, line.N)
		n++
	}
	require.Equal(t, 3, n)
	sub, err := s.Subscribe(t.Context(), "test/op", nil)
	require.NoError(t, err)
	for range 100 {
		_, err := sub.Next(t.Context())
		require.NoError(t, err)
	}
	require.NoError(t, sub.Close()) // and the server's handler ends, or its Close hangs

	cfg.MaxOutput = 4
	sub, err = fromHTTP(t, cfg).Subscribe(t.Context(), "test/op", nil)
	require.NoError(t, err)
	_, err = sub.Next(t.Context())
	require.EqualError(t, err, "INTERNAL: a line of the output exceeds 4 bytes")
}

// CALL-12: the trace goes on to the service.
func TestHTTPTrace(t *testing.T) {
	const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	s := fromHTTP(t, adapt.JSONSchemaConfig{URL: httpServer(t).URL + "/echo/a"})
	got, err := call.Invoke[map[string]string](t.Context(), s, "test/op", nil, call.WithTraceparent(parent))
	require.NoError(t, err)
	require.Equal(t, parent, got["trace"])
}

// CALL-98: a schema alone is for looking at.
func TestCALL98SchemaAlone(t *testing.T) {
	adapter := adapt.JSONSchemas{
		{Name: "plan/step", InputSchema: json.RawMessage(`{"type":"object","required":["do"]}`)},
		{Name: "plan/watch", Type: call.OpSubscription},
	}
	ops, err := adapter.Import(t.Context())
	require.NoError(t, err)
	reached := make(chan error, 1)
	compose := query("test/compose", func(ctx context.Context, r *call.Request) (any, error) {
		_, err := r.Env.Invoke(ctx, "plan/step", map[string]int{"do": 1})
		reached <- err
		return r.Env.Contains("plan/step"), nil
	})
	compose.Authority = &call.CompositionAuthority{Label: "planner", Scopes: []string{"call:plan/step"}}
	compose.ScopedEnv = &call.ScopedEnv{AllowedOps: []string{"plan/step"}}
	node := protocol(t, call.Config{}, append(ops, compose)...)
	s, _ := join(t, protocol(t, call.Config{}), node, known("node"), known("user", "call:plan/step"))

	_, err = s.Call(t.Context(), "plan/step", map[string]int{"do": 1})
	require.EqualError(t, err, "NOT_FOUND: operation not found: plan/step")
	_, err = s.Schema(t.Context(), "plan/step")
	require.ErrorIs(t, err, call.ErrNotFound)
	list, err := s.List(t.Context())
	require.NoError(t, err)
	for _, row := range list {
		require.NotEqual(t, "plan", row.Namespace)
	}
	out, err := s.Call(t.Context(), "test/compose", nil)
	require.NoError(t, err)
	require.Equal(t, "false", string(out))
	require.ErrorIs(t, <-reached, call.ErrNotFound, "by composition neither")

	// The node itself has it, for validation and planning.
	specs := node.Operations()
	require.Equal(t, "plan/step", specs[0].Name)
	require.JSONEq(t, `{"type":"object","required":["do"]}`, string(specs[0].InputSchema))
	require.Equal(t, call.Internal, specs[0].Visibility)
}

func TestFromJSONSchemaRefuses(t *testing.T) {
	for field, cfgs := range map[string][]adapt.JSONSchemaConfig{
		"URL": {
			{URL: "ftp://x/"},
			{URL: "http:///x"},
			{URL: "http:x"},
			{URL: "x"},
			{URL: "http://[::1"},
			{URL: "https://user:" + secret + "@x/"},
			{URL: "https://x/#a"},
			{URL: "http://x/{"},
			{URL: "http://x/}"},
			{URL: "http://x/{}"},
			{URL: "http://x/{a/b}"},
			{URL: "http://x/{a{b}}"},
			{URL: "http://x/{a}", Input: adapt.InputNone},
			{URL: "http://x/%2F{a}"},
			{URL: "http://x/", Credential: "github"},
			{URL: "http://192.0.2.1/", Credential: "github"},
			{Credential: "github"},
			{Method: "GET"},
			{URL: "http://\x00" + secret},
		},
		"Method":        {{URL: "http://x/", Method: "BREW"}, {URL: "http://x/", Method: "get"}},
		"Visibility":    {{Visibility: call.External}},
		"Output":        {{URL: "http://x/", Output: "xml"}, {URL: "http://x/", Output: adapt.OutputJSONL}},
		"Timeout":       {{URL: "http://x/", Timeout: -1}},
		"Type":          {{Type: "event"}},
		"MaxConcurrent": {{URL: "http://x/", MaxConcurrent: -1}},
	} {
		for _, cfg := range cfgs {
			cfg.Name = "a/b"
			_, err := adapt.FromJSONSchema(cfg)
			var e *adapt.FieldError
			require.ErrorAs(t, err, &e, "%+v", cfg)
			require.Equal(t, field, e.Field, "%+v", cfg)
			require.NotContains(t, err.Error(), secret)
		}
	}
	for _, url := range []string{"https://x/", "http://127.0.0.1/", "http://[::1]:80/", "http://localhost/"} {
		_, err := adapt.FromJSONSchema(adapt.JSONSchemaConfig{Name: "a/b", URL: url, Credential: "github"})
		require.NoError(t, err, url)
	}
	_, err := adapt.JSONSchemas{{Name: "a/b", Method: "GET"}}.Import(t.Context())
	var e *adapt.AdapterError
	require.ErrorAs(t, err, &e)
	require.Equal(t, adapt.SchemaParse, e.Kind)
}

// CALL-90: what has another description comes in by one interface, and its
// errors say of which kind they are.
func TestCALL90OperationAdapter(t *testing.T) {
	s, _ := join(t, protocol(t, call.Config{}), protocol(t, call.Config{}, runnerOperations()...), known("runner"), known("hub", "run"))
	for _, adapter := range []adapt.OperationAdapter{
		adapt.Peer{Session: s},
		adapt.JSONSchemas{{Name: "a/b", URL: "http://127.0.0.1/"}},
	} {
		ops, err := adapter.Import(t.Context())
		require.NoError(t, err)
		require.NotEmpty(t, ops)
		for _, op := range ops {
			require.Equal(t, call.Internal, op.Spec.Visibility)
		}
	}
	err := error(&adapt.AdapterError{Kind: adapt.Transport, Message: "to here", Err: io.EOF})
	require.EqualError(t, err, "transport: to here: EOF")
	require.ErrorIs(t, err, io.EOF)
	require.EqualError(t, &adapt.AdapterError{Kind: adapt.SamePeerCollision, Message: "a/b"}, "name collision: a/b")
}
