package mdeapi

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"io"
	"strconv"
	"strings"
	"sync"
)

// worthwhile is the length in bytes from which on an answer is compressed: a
// shorter one fits one packet as it is.
const worthwhile = 1400

// The content codings (RFC 9110, section 8.4.1). What HTTP calls deflate is the
// zlib format; since some programs mean another one by it, gzip is preferred.
const (
	codingGzip    = "gzip"
	codingDeflate = "deflate"
)

// codingFor returns the content coding for an answer of size bytes to a request
// with these Accept-Encoding headers, or "" for none (RFC 9110, section 12.5.3).
// It may be chosen freely what to compress: no answer holds a secret whose
// length could be told from the answer's.
func codingFor(accept []string, size int) string {
	q := make(map[string]float64)
	for entry := range strings.SplitSeq(strings.Join(accept, ","), ",") {
		name, weight, _ := strings.Cut(entry, ";")
		name = strings.ToLower(strings.TrimSpace(name))
		switch name {
		case "x-gzip":
			name = codingGzip
		case codingGzip, codingDeflate, "identity", "*":
		default:
			continue
		}
		q[name] = quality(weight)
	}
	of := func(name string) float64 {
		if v, ok := q[name]; ok {
			return v
		}
		return q["*"]
	}
	coding, best := codingGzip, of(codingGzip)
	if v := of(codingDeflate); v > best {
		coding, best = codingDeflate, v
	}
	plain, named := q["identity"]
	_, others := q["*"]
	plainWillDo := of("identity") > 0 || !named && !others
	if best == 0 || plainWillDo && (size < worthwhile || plain > best) {
		return ""
	}
	return coding
}

// quality is the weight of an entry of Accept-Encoding: 1 if there is none, and
// 0 if it is not one.
func quality(weight string) float64 {
	if strings.TrimSpace(weight) == "" {
		return 1
	}
	name, value, _ := strings.Cut(weight, "=")
	q, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
	if err != nil || !strings.EqualFold(strings.TrimSpace(name), "q") || !(q >= 0 && q <= 1) { // NaN is no weight either
		return 0
	}
	return q
}

// compressor is a gzip.Writer or a zlib.Writer.
type compressor interface {
	io.WriteCloser
	Reset(io.Writer)
}

// compressors are used again: a new one costs more memory than most answers.
// Rows are so much alike that the fastest level makes a tenth of them.
var compressors = map[string]*sync.Pool{
	codingGzip: {New: func() any {
		w, _ := gzip.NewWriterLevel(nil, gzip.BestSpeed) // the level exists
		return w
	}},
	codingDeflate: {New: func() any {
		w, _ := zlib.NewWriterLevel(nil, zlib.BestSpeed)
		return w
	}},
}

func compress(coding string, body []byte) []byte {
	c := compressors[coding].Get().(compressor)
	defer compressors[coding].Put(c)
	var b bytes.Buffer
	c.Reset(&b)
	_, _ = c.Write(body) // into memory: cannot fail
	_ = c.Close()
	return b.Bytes()
}
