package mdeapi

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"

	"pgregory.net/rapid"
)

func TestCodingFor(t *testing.T) {
	for accept, want := range map[string][2]string{ // for a small answer, for a big one
		"":                                  {"", ""},
		"gzip":                              {"", "gzip"},
		"GZIP":                              {"", "gzip"},
		"x-gzip":                            {"", "gzip"},
		"deflate":                           {"", "deflate"},
		"deflate, gzip":                     {"", "gzip"},
		"gzip;q=0.5, deflate;q=0.9":         {"", "deflate"},
		"gzip ; Q = 0.5 , deflate":          {"", "deflate"},
		"br":                                {"", ""},
		"br, gzip;q=0.1":                    {"", "gzip"},
		"gzip;q=0":                          {"", ""},
		"gzip;q=0.000, deflate":             {"", "deflate"},
		"*":                                 {"", "gzip"},
		"gzip;q=0, *":                       {"", "deflate"},
		"*;q=0":                             {"", ""},
		"*;q=0, deflate":                    {"deflate", "deflate"},
		"identity":                          {"", ""},
		"identity, gzip":                    {"", "gzip"},
		"identity;q=1, gzip;q=0.5":          {"", ""},
		"identity;q=0, gzip;q=0.5":          {"gzip", "gzip"},
		"identity;q=0":                      {"", ""}, // nothing else was offered, so it is sent all the same
		"identity;q=0.5, *;q=0, gzip":       {"", "gzip"},
		"gzip;q=2":                          {"", ""},
		"gzip;q=-1":                         {"", ""},
		"gzip;q=NaN":                        {"", ""},
		"gzip;q=":                           {"", ""},
		"gzip;level=1":                      {"", ""},
		"gzip;":                             {"", "gzip"},
		",, ,gzip,":                         {"", "gzip"},
		"gzip, deflate, br":                 {"", "gzip"},
		"gzip;q=1.0,deflate;q=0.6,identity": {"", "gzip"},
	} {
		for i, size := range []int{worthwhile - 1, worthwhile} {
			if got := codingFor([]string{accept}, size); got != want[i] {
				t.Errorf("Accept-Encoding: %s, %d bytes: %q, want %q", accept, size, got, want[i])
			}
		}
	}
	if got := codingFor([]string{"br", "deflate"}, worthwhile); got != codingDeflate {
		t.Errorf("two headers: %q", got)
	}
	if got := codingFor(nil, worthwhile); got != "" {
		t.Errorf("no header: %q", got)
	}
}

// FuzzCodingFor holds that only what was named is chosen.
func FuzzCodingFor(f *testing.F) {
	f.Add("gzip;q=1.0, deflate;q=0.6, identity;q=0.3", 5000)
	f.Add("*;q=0,deflate", 1)
	f.Add("x-gzip;q==1;q", 1400)
	f.Fuzz(func(t *testing.T, accept string, size int) {
		lower := strings.ToLower(accept)
		switch coding := codingFor([]string{accept}, size); coding {
		case "":
		case codingGzip, codingDeflate:
			if !strings.Contains(lower, coding) && !strings.Contains(lower, "*") {
				t.Fatalf("%q: %s was not asked for", accept, coding)
			}
			if size < worthwhile && !strings.Contains(lower, "0") {
				t.Fatalf("%q: %d bytes would do as they are", accept, size)
			}
		default:
			t.Fatalf("%q: %q", accept, coding)
		}
	})
}

// TestCompress: what is packed can be unpacked, also when compressors are used
// again and by several at once.
func TestCompress(t *testing.T) {
	unpack := map[string]func(io.Reader) (io.Reader, error){
		codingGzip:    func(r io.Reader) (io.Reader, error) { return gzip.NewReader(r) },
		codingDeflate: func(r io.Reader) (io.Reader, error) { return zlib.NewReader(r) },
	}
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			rapid.Check(t, func(t *rapid.T) {
				body := bytes.Repeat(rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "body"), rapid.IntRange(0, 50).Draw(t, "times"))
				coding := rapid.SampledFrom([]string{codingGzip, codingDeflate}).Draw(t, "coding")
				before := slices.Clone(body)
				r, err := unpack[coding](bytes.NewReader(compress(coding, body)))
				if err != nil {
					t.Fatal(err)
				}
				if back, err := io.ReadAll(r); err != nil || !bytes.Equal(back, before) || !bytes.Equal(body, before) {
					t.Fatalf("%d bytes became %d: %v", len(before), len(back), err)
				}
			})
		})
	}
	all.Wait()
}
