// Package wirefile plays files of HTTP requests over real connections, and holds
// the answers against those in the files, byte for byte.
//
// A file is a txtar archive. A section is a request as it goes out, without what
// HTTP always needs ([Send] adds it); the section after it, with the same name
// and ": answer", is what came back ([Text]).
package wirefile

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"

	"github.com/cordon-project/cordon/internal/testkit/golden"
)

// Play plays every testdata/*.txtar as a test of its own. Each begins with a new
// player, which is given the sections one after the other and returns the answer
// to each, nil for a section that is no request.
func Play(t *testing.T, begin func(t *testing.T) (player func(name, section string) []byte)) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no wire files: %v", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			archive, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			play, seen := begin(t), txtar.Archive{Comment: archive.Comment}
			for _, f := range archive.Files {
				if strings.HasSuffix(f.Name, ": answer") {
					continue
				}
				seen.Files = append(seen.Files, f)
				if answer := play(f.Name, string(f.Data)); answer != nil {
					seen.Files = append(seen.Files, txtar.File{Name: f.Name + ": answer", Data: answer})
				}
			}
			golden.Compare(t, file, txtar.Format(&seen))
		})
	}
}

// Send sends one request to the server at addr, on a connection of its own, and
// returns the answer with its content. It adds Connection and Content-Length, and
// Host where there is none.
func Send(t testing.TB, addr, host, request string) (*http.Response, []byte) {
	t.Helper()
	head, body, _ := strings.Cut(request, "\n\n")
	body = strings.TrimSuffix(body, "\n")
	head = strings.TrimRight(head, "\n") + "\nConnection: close\n"
	if !strings.Contains(head, "\nHost: ") {
		head += "Host: " + host + "\n"
	}
	if body != "" {
		head += fmt.Sprintf("Content-Length: %d\n", len(body))
	}
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }() // the server may have
	// The server may answer and close before it has taken in a body that is too
	// long, so this may fail at any point.
	go func() { _, _ = io.WriteString(conn, strings.ReplaceAll(head+"\n", "\n", "\r\n")+body) }()
	method, _, _ := strings.Cut(request, " ")
	r, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	if err != nil {
		t.Fatal(err)
	}
	content, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r, content
}

// Text is an answer as it stands in a file: Date is left out.
func Text(r *http.Response, content []byte) []byte {
	var out bytes.Buffer
	fmt.Fprintf(&out, "%s\n", r.Status)
	for _, name := range slices.Sorted(maps.Keys(r.Header)) {
		if name != "Date" {
			fmt.Fprintf(&out, "%s: %s\n", name, strings.Join(r.Header[name], " | "))
		}
	}
	if len(content) > 0 {
		fmt.Fprintf(&out, "\n%s\n", content)
	}
	return out.Bytes()
}
