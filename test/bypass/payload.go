package main

import (
	"bytes"
	"encoding/binary"
	"os"
)

// code returns machine code (amd64) that creates the file at marker and ends the
// process with status 0. It uses no stack and runs wherever it is put.
func code(marker string) []byte {
	b := []byte{
		0x48, 0x8d, 0x3d, 26, 0, 0, 0, // lea rdi,[rip+26]: what follows the code
		0xbe, 0x41, 0, 0, 0, // mov esi,O_WRONLY|O_CREAT
		0xba, 0xa4, 1, 0, 0, // mov edx,0644
		0xb8, 2, 0, 0, 0, // mov eax,open
		0x0f, 0x05, // syscall
		0x31, 0xff, // xor edi,edi
		0xb8, 0xe7, 0, 0, 0, // mov eax,exit_group
		0x0f, 0x05, // syscall
	}
	return append(append(b, marker...), 0)
}

// The types of an ELF file: at a fixed address, or at any (static-pie).
const (
	fixed    = 2
	anywhere = 3
)

// program returns a static ELF program that does what code does. The code
// begins at codeAt in the file.
func program(kind uint16, marker string) []byte {
	text := code(marker)
	base := uint64(0x400000)
	if kind == anywhere {
		base = 0
	}
	size := uint64(codeAt + len(text))
	var b bytes.Buffer
	b.Write([]byte{0x7f, 'E', 'L', 'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	for _, v := range []any{
		kind, uint16(62), uint32(1), base + codeAt, uint64(64), uint64(0), uint32(0), // amd64 … e_flags
		uint16(64), uint16(56), uint16(1), uint16(0), uint16(0), uint16(0), // sizes and counts
		uint32(1), uint32(5), uint64(0), base, base, size, size, uint64(0x1000), // PT_LOAD, r-x
	} {
		_ = binary.Write(&b, binary.LittleEndian, v) // to memory
	}
	b.Write(text)
	return b.Bytes()
}

const codeAt = 64 + 56

func put(path string, content []byte) error { return os.WriteFile(path, content, 0o755) }
