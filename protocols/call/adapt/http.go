package adapt

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	gojson "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/alkdev/alknet-p2p/protocols/call"
)

const (
	maxHTTPHeader   = 64 << 10
	maxHTTPURL      = 16 << 10 // with the input in it
	maxHTTPError    = 4 << 10  // of a body that goes into the details of an error
	maxRedirects    = 5
	httpIdle        = 30 * time.Second
	httpHeaderAfter = 30 * time.Second // of a subscription, which has no deadline
)

// httpService sends one kind of request to one service.
type httpService struct {
	op     string
	method string
	base   *url.URL
	path   []segment
	accept string
	client *http.Client
	log    *slog.Logger
}

// segment is a piece of a path: text, or the name of a member of the input.
type segment struct{ text, member string }

func newHTTP(rawURL, method string, s *service) (*httpService, error) {
	base, err := url.Parse(rawURL)
	switch {
	case err != nil:
		return nil, &FieldError{"URL", errors.New("not a URL")} // its error holds the text, which may hold a secret
	case base.Scheme != "http" && base.Scheme != "https", base.Host == "", base.Opaque != "":
		return nil, fieldErrorf("URL", "not the URL of an HTTP service")
	case base.User != nil:
		return nil, fieldErrorf("URL", "a URL holds no secret: name a credential")
	case base.Fragment != "":
		return nil, fieldErrorf("URL", "a fragment is not sent")
	case s.credential != "" && base.Scheme != "https" && !loopback(base.Hostname()):
		return nil, fieldErrorf("URL", "a credential goes over https, or to this machine only")
	}
	switch method {
	case "":
		method = http.MethodGet
		if s.typ == call.OpMutation {
			method = http.MethodPost
		}
	case http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete:
	default:
		return nil, fieldErrorf("Method", "method %q is not GET, POST, PUT, PATCH or DELETE", method)
	}
	h := &httpService{op: s.name, method: method, base: base, accept: accepted(s.output), log: s.log}
	if h.path, err = parsePath(base.Path); err != nil {
		return nil, &FieldError{"URL", err}
	}
	if len(h.path) > 1 && strings.Contains(base.RawPath, "%") {
		return nil, fieldErrorf("URL", "a path that takes members has no escapes")
	}
	if s.input == InputNone && len(h.path) > 1 {
		return nil, fieldErrorf("URL", "its path takes members of the input, and there is none")
	}
	h.client = &http.Client{
		CheckRedirect: h.redirect,
		Transport: &http.Transport{ // Proxy is nil: the environment decides nothing
			DialContext:            (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
			TLSHandshakeTimeout:    10 * time.Second,
			ResponseHeaderTimeout:  max(s.timeout, httpHeaderAfter),
			IdleConnTimeout:        httpIdle,
			MaxIdleConnsPerHost:    s.maxConcurrent,
			MaxResponseHeaderBytes: maxHTTPHeader,
			ForceAttemptHTTP2:      true,
		},
	}
	return h, nil
}

func accepted(o Output) string {
	switch o {
	case OutputJSONL:
		return "application/x-ndjson, application/json"
	case OutputText:
		return "*/*"
	case OutputJSON:
	}
	return "application/json"
}

func loopback(host string) bool {
	return host == "localhost" || net.ParseIP(host).IsLoopback()
}

// parsePath takes "/a/{b}/c" apart.
func parsePath(path string) ([]segment, error) {
	var list []segment
	for {
		text, rest, found := strings.Cut(path, "{")
		if strings.Contains(text, "}") {
			return nil, errors.New("its path has a } without a {")
		}
		list = append(list, segment{text: text})
		if !found {
			return list, nil
		}
		member, after, closed := strings.Cut(rest, "}")
		if !closed || member == "" || strings.ContainsAny(member, "{/") {
			return nil, errors.New("its path has a { that names no member")
		}
		list = append(list, segment{member: member})
		path = after
	}
}

var errRedirect = errors.New("redirected to another host")

// redirect keeps the service from sending us, and what we carry, elsewhere.
func (h *httpService) redirect(next *http.Request, via []*http.Request) error {
	switch {
	case next.URL.Scheme != h.base.Scheme || next.URL.Host != h.base.Host:
		return errRedirect
	case len(via) > maxRedirects:
		return errors.New("redirected too often")
	}
	return nil
}

// serve sends one request.
func (h *httpService) serve(ctx context.Context, r *call.Request, secret []byte, consume func(io.Reader) error) error {
	defer clear(secret)
	req, err := h.request(ctx, r.Input)
	if err != nil {
		return err
	}
	if secret != nil {
		req.Header.Set("Authorization", "Bearer "+string(secret))
	}
	if trace := call.TraceparentFromContext(ctx); trace != "" {
		req.Header.Set("Traceparent", trace)
	}
	res, err := h.client.Do(req)
	if err != nil {
		return h.unreached(ctx, err)
	}
	defer res.Body.Close()
	if res.StatusCode < 200 || res.StatusCode > 299 {
		return h.failed(res, secret)
	}
	body := &body{r: res.Body, secret: secret}
	switch err := consume(body); {
	case body.err != nil:
		return h.unreached(ctx, body.err)
	default:
		return err
	}
}

// unreached is the error when the service does not answer. Why is for the log,
// without the URL, which holds the input.
func (h *httpService) unreached(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	if errors.Is(err, errSecret) {
		return call.Errorf(call.CodeInternal, "the answer holds the credential")
	}
	if e, ok := errors.AsType[*url.Error](err); ok {
		err = e.Err
	}
	h.log.Warn("HTTP service failed", "op", h.op, "err", err)
	return call.Errorf(call.CodeInternal, "the HTTP service does not answer as it should")
}

// request makes the request for an input; nil is none.
func (h *httpService) request(ctx context.Context, input json.RawMessage) (*http.Request, error) {
	members, object := map[string]jsontext.Value{}, false
	if input != nil && jsontext.Value(input).Kind() == '{' {
		if err := gojson.Unmarshal(input, &members); err != nil {
			return nil, call.Errorf(call.CodeInvalidInput, "input: %v", err)
		}
		object = true
	}
	u := *h.base
	if err := h.fill(&u, members); err != nil {
		return nil, err
	}
	var content io.Reader
	switch {
	case input == nil:
	case h.method == http.MethodGet || h.method == http.MethodDelete:
		if !object && string(input) != "null" {
			return nil, call.Errorf(call.CodeInvalidInput, "input: not an object of what to ask for")
		}
		if err := addQuery(&u, members); err != nil {
			return nil, err
		}
	case object && len(h.path) > 1: // what is in the path is not in the body
		rest, err := gojson.Marshal(members, gojson.Deterministic(true))
		if err != nil {
			return nil, call.Errorf(call.CodeInvalidInput, "input: %v", err)
		}
		content = bytes.NewReader(rest)
	default:
		content = bytes.NewReader(input)
	}
	if len(u.RawQuery)+len(u.RawPath) > maxHTTPURL {
		return nil, call.Errorf(call.CodeInvalidInput, "input: too long for a URL")
	}
	req, err := http.NewRequestWithContext(ctx, h.method, u.String(), content)
	if err != nil {
		return nil, fmt.Errorf("make request: %w", err)
	}
	req.Header.Set("Accept", h.accept)
	req.Header.Set("User-Agent", "alknet-p2p")
	if content != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	return req, nil
}

// fill puts members of the input into the path and takes them out of members.
func (h *httpService) fill(u *url.URL, members map[string]jsontext.Value) error {
	if len(h.path) == 1 {
		return nil
	}
	var plain, escaped strings.Builder
	used := map[string]bool{}
	for _, s := range h.path {
		if s.member == "" {
			plain.WriteString(s.text)
			escaped.WriteString((&url.URL{Path: s.text}).EscapedPath())
			continue
		}
		text, ok := scalar(members[s.member])
		if !ok || text == "" || text == "." || text == ".." {
			return call.Errorf(call.CodeInvalidInput, "input: /%s does not fit into a path", s.member)
		}
		plain.WriteString(text)
		escaped.WriteString(url.PathEscape(text))
		used[s.member] = true
	}
	for member := range used {
		delete(members, member)
	}
	u.Path, u.RawPath = plain.String(), escaped.String()
	return nil
}

// addQuery adds what members hold; null is left out.
func addQuery(u *url.URL, members map[string]jsontext.Value) error {
	query := u.Query()
	for name, value := range members {
		items := []jsontext.Value{value}
		if value.Kind() == '[' {
			items = nil
			if err := gojson.Unmarshal(value, &items); err != nil {
				return call.Errorf(call.CodeInvalidInput, "input: %v", err)
			}
		}
		for _, item := range items {
			if item.Kind() == 'n' {
				continue
			}
			text, ok := scalar(item)
			if !ok {
				return call.Errorf(call.CodeInvalidInput, "input: /%s does not fit into a URL", name)
			}
			query.Add(name, text)
		}
	}
	u.RawQuery = query.Encode()
	return nil
}

// scalar is a string as it is, a number or a boolean as it is written.
func scalar(v jsontext.Value) (string, bool) {
	switch v.Kind() {
	case '"':
		var text string
		err := gojson.Unmarshal(v, &text)
		return text, err == nil
	case '0', 't', 'f':
		return string(v), true
	}
	return "", false
}

// statusError is the details of HTTP_<status>.
type statusError struct {
	Status int            `json:"status"`
	Body   jsontext.Value `json:"body,omitzero"`
}

// failed is the error of an answer with a status that is none of success.
func (h *httpService) failed(res *http.Response, secret []byte) error {
	details := statusError{Status: res.StatusCode}
	text, err := io.ReadAll(io.LimitReader(res.Body, maxHTTPError+1))
	text = bytes.TrimSpace(text)
	switch {
	case err != nil || len(text) == 0 || len(text) > maxHTTPError || secret != nil && bytes.Contains(text, secret):
	case jsontext.Value(text).IsValid():
		details.Body = text
	default:
		if quoted, err := gojson.Marshal(string(text), jsontext.AllowInvalidUTF8(true)); err == nil {
			details.Body = quoted
		}
	}
	e := call.Errorf(statusCode(res.StatusCode), "%s", strings.TrimSpace(fmt.Sprint(res.StatusCode, " ", http.StatusText(res.StatusCode))))
	e.Retryable = retryable(res.StatusCode)
	return e.WithDetails(details)
}

func statusCode(status int) call.Code { return call.Code("HTTP_" + strconv.Itoa(status)) }

func retryable(status int) bool {
	switch status {
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}

// statusErrors declares the statuses that callers can do something about;
// another one reaches them as INTERNAL, with its code in the details (CALL-54).
func statusErrors() []call.ErrorSpec {
	var list []call.ErrorSpec
	for _, status := range []int{400, 401, 403, 404, 405, 409, 410, 412, 413, 415, 422, 423, 429, 500, 501, 502, 503, 504} {
		list = append(list, call.ErrorSpec{
			Code: statusCode(status), Description: http.StatusText(status), HTTPStatus: &status,
			Schema: json.RawMessage(`{"type":"object","required":["status"],"properties":{"status":{"const":` + strconv.Itoa(status) + `},"body":{}}}`),
		})
	}
	return list
}

var errSecret = errors.New("the credential came back")

// body reads an answer and remembers why it failed. It stops where the service
// gives the credential back (CALL-99).
type body struct {
	r      io.Reader
	secret []byte
	tail   []byte // of what was read before, shorter than the secret
	err    error
}

func (b *body) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if len(b.secret) > 0 && n > 0 {
		b.tail = append(b.tail, p[:n]...)
		if bytes.Contains(b.tail, b.secret) {
			n, err = 0, errSecret
		}
		b.tail = append(b.tail[:0], b.tail[max(0, len(b.tail)-len(b.secret)+1):]...)
	}
	if err != nil && !errors.Is(err, io.EOF) {
		b.err = err
	}
	return n, err
}
