package interpreters

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"testing"
)

// class is a Java class as javac would make it (The Java Virtual Machine
// Specification, chapter 4), which takes minutes in the emulator. Its main, and its
// premain, leave the marker:
//
//	new java.io.FileOutputStream(System.getenv("MARKER"));
func class(name string) []byte {
	var pool, b bytes.Buffer
	n := uint16(0)
	put := func(w *bytes.Buffer, values ...any) {
		for _, v := range values {
			_ = binary.Write(w, binary.BigEndian, v) // a Buffer takes everything
		}
	}
	add := func(values ...any) uint16 {
		put(&pool, values...)
		n++
		return n
	}
	text := func(s string) uint16 { return add(uint8(1), uint16(len(s)), []byte(s)) }
	refers := func(tag uint8, to ...uint16) uint16 { return add(tag, to) }
	type1 := func(s string) uint16 { return refers(7, text(s)) }
	method := func(class, name, descriptor string) uint16 {
		c, named := type1(class), refers(12, text(name), text(descriptor))
		return refers(10, c, named)
	}
	this, object, stream := type1(name), type1("java/lang/Object"), type1("java/io/FileOutputStream")
	marker := refers(8, text("MARKER"))
	getenv := method("java/lang/System", "getenv", "(Ljava/lang/String;)Ljava/lang/String;")
	opened := method("java/io/FileOutputStream", "<init>", "(Ljava/lang/String;)V")
	code := text("Code")
	mains := [][2]uint16{{text("main"), text("([Ljava/lang/String;)V")}, {text("premain"), text("(Ljava/lang/String;)V")}}

	put(&b, uint32(0xcafebabe), uint16(0), uint16(52), n+1, pool.Bytes())
	put(&b, uint16(0x21), this, object, uint16(0), uint16(0), uint16(len(mains))) // public; no interfaces, no fields
	for _, m := range mains {
		put(&b, uint16(9), m, uint16(1), code, uint32(26), uint16(3), uint16(1), uint32(14)) // public static; 14 bytes of code
		put(&b, uint8(0xbb), stream, uint8(0x59))                                            // new, dup
		put(&b, uint8(0x12), uint8(marker), uint8(0xb8), getenv)                             // ldc, invokestatic
		put(&b, uint8(0xb7), opened, uint8(0x57), uint8(0xb1))                               // invokespecial, pop, return
		put(&b, uint16(0), uint16(0))                                                        // no handlers, no attributes
	}
	put(&b, uint16(0))
	return b.Bytes()
}

// archive is a jar with the class.
func archive(t *testing.T, name string) []byte {
	t.Helper()
	manifest := "Manifest-Version: 1.0\nMain-Class: " + name + "\nPremain-Class: " + name + "\n"
	return zipped(t, map[string][]byte{"META-INF/MANIFEST.MF": []byte(manifest), name + ".class": class(name)})
}

func zipped(t *testing.T, files map[string][]byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for file, content := range files {
		f, err := w.Create(file)
		if err == nil {
			_, err = f.Write(content)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}
