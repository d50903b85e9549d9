// Interop lets programs that nobody here wrote judge our formats.
//
// Each command hands our files to somebody else's implementation and reports its verdict as the exit status:
// 0 accepted, 1 refused, 2 usage. None of our own rules is repeated here.
//
//	interop fsck DIR VKEYFILE N SECONDS   Tessera: every bundle and tile is derived anew, then the root
//	interop entries VKEY DIR              torchwood: checkpoint, tiles and every entry through its client
//	interop note VKEY FILE                x/mod: one signed note
//	interop proof VKEY PROOF ENTRY        formats and merkle: a .tlog-proof of an entry
//	interop policy POLICY PROOF ENTRY     torchwood: the same under a policy with witnesses
//	interop vectors N                     merkle: all inclusion and consistency proofs up to size N, as JSON lines
package main

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"filippo.io/torchwood"
	"github.com/transparency-dev/formats/log"
	fnote "github.com/transparency-dev/formats/note"
	fproof "github.com/transparency-dev/formats/proof"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/merkle/testonly"
	"github.com/transparency-dev/tessera/api"
	"github.com/transparency-dev/tessera/client"
	"github.com/transparency-dev/tessera/fsck"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

var errUsage = errors.New("usage: interop fsck|entries|note|proof|policy|vectors ARGUMENTS (see the top of main.go)")

type command struct {
	arguments int
	run       func(arguments []string) error
}

var commands = map[string]command{
	"fsck":    {4, runFsck},
	"entries": {2, runEntries},
	"note":    {2, runNote},
	"proof":   {3, runProof},
	"policy":  {3, runPolicy},
	"vectors": {1, runVectors},
}

func main() {
	err := run(os.Args[1:])
	switch {
	case err == nil:
	case errors.Is(err, errUsage):
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	default:
		fmt.Fprintln(os.Stderr, "refused:", err)
		os.Exit(1)
	}
}

func run(arguments []string) error {
	if len(arguments) == 0 {
		return errUsage
	}
	chosen, ok := commands[arguments[0]]
	if !ok || len(arguments) != 1+chosen.arguments {
		return errUsage
	}
	return guarded(func() error { return chosen.run(arguments[1:]) })
}

// guarded turns a panic into a refusal: Tessera's fsck indexes past the end of a bundle that holds too few entries.
func guarded(check func() error) (err error) {
	defer func() {
		if cause := recover(); cause != nil {
			err = fmt.Errorf("the checker panicked: %v", cause)
		}
	}()
	return check()
}

// runFsck refuses after a time limit, because the checker blocks when more than N of its workers have met a fault.
// With N above the number of tiles that cannot happen.
func runFsck(arguments []string) error {
	workers, err := strconv.ParseUint(arguments[2], 10, 32)
	if err != nil {
		return errUsage
	}
	seconds, err := strconv.ParseUint(arguments[3], 10, 32)
	if err != nil {
		return errUsage
	}
	vkey, err := readText(arguments[1])
	if err != nil {
		return err
	}
	verifier, err := fnote.NewVerifier(vkey)
	if err != nil {
		return err
	}
	root, err := filepath.Abs(arguments[0])
	if err != nil {
		return err
	}
	checker := fsck.New(verifier.Name(), verifier, &client.FileFetcher{Root: root}, leafHashes, fsck.Opts{N: uint(workers)})
	verdict := make(chan error, 1)
	go func() {
		verdict <- guarded(func() error { return checker.Check(context.Background()) })
	}()
	select {
	case err := <-verdict:
		return err
	case <-time.After(time.Duration(seconds) * time.Second):
		return fmt.Errorf("no verdict after %d s", seconds)
	}
}

func leafHashes(bundle []byte) ([][]byte, error) {
	var entries api.EntryBundle
	if err := entries.UnmarshalText(bundle); err != nil {
		return nil, err
	}
	hashes := make([][]byte, len(entries.Entries))
	for i, entry := range entries.Entries {
		hashes[i] = rfc6962.DefaultHasher.HashLeaf(entry)
	}
	return hashes, nil
}

func runEntries(arguments []string) error {
	verifier, err := fnote.NewVerifier(arguments[0])
	if err != nil {
		return err
	}
	signed, err := os.ReadFile(filepath.Join(arguments[1], "checkpoint"))
	if err != nil {
		return err
	}
	policy := torchwood.ThresholdPolicy(2, torchwood.OriginPolicy(verifier.Name()), torchwood.SingleVerifierPolicy(verifier))
	checkpoint, _, err := torchwood.VerifyCheckpoint(signed, policy)
	if err != nil {
		return err
	}
	files, err := torchwood.NewTileFS(os.DirFS(arguments[1]))
	if err != nil {
		return err
	}
	reader, err := torchwood.NewClient(files)
	if err != nil {
		return err
	}
	next := int64(0)
	for index := range reader.AllEntries(context.Background(), checkpoint.Tree, 0) {
		if index != next {
			return fmt.Errorf("entry %d where %d was expected", index, next)
		}
		next++
	}
	if err := reader.Err(); err != nil {
		return err
	}
	if next != checkpoint.N {
		return fmt.Errorf("%d entries read of %d", next, checkpoint.N)
	}
	return nil
}

func runNote(arguments []string) error {
	verifier, err := note.NewVerifier(arguments[0])
	if err != nil {
		return err
	}
	signed, err := os.ReadFile(arguments[1])
	if err != nil {
		return err
	}
	_, err = note.Open(signed, note.VerifierList(verifier))
	return err
}

func runProof(arguments []string) error {
	verifier, err := fnote.NewVerifier(arguments[0])
	if err != nil {
		return err
	}
	written, err := os.ReadFile(arguments[1])
	if err != nil {
		return err
	}
	entry, err := os.ReadFile(arguments[2])
	if err != nil {
		return err
	}
	var bundle fproof.TLogProof
	if err := bundle.Unmarshal(written); err != nil {
		return err
	}
	checkpoint, _, _, err := log.ParseCheckpoint(bundle.Checkpoint, verifier.Name(), verifier)
	if err != nil {
		return err
	}
	hashes := make([][]byte, len(bundle.Hashes))
	for i := range bundle.Hashes {
		hashes[i] = bundle.Hashes[i][:]
	}
	hasher := rfc6962.DefaultHasher
	return proof.VerifyInclusion(hasher, bundle.Index, checkpoint.Size, hasher.HashLeaf(entry), hashes, checkpoint.Hash)
}

func runPolicy(arguments []string) error {
	text, err := os.ReadFile(arguments[0])
	if err != nil {
		return err
	}
	policy, err := torchwood.ParsePolicy(text)
	if err != nil {
		return err
	}
	written, err := os.ReadFile(arguments[1])
	if err != nil {
		return err
	}
	entry, err := os.ReadFile(arguments[2])
	if err != nil {
		return err
	}
	return torchwood.VerifyProof(policy, tlog.RecordHash(entry), written)
}

type inclusionVector struct {
	Kind  string   `json:"kind"`
	Index uint64   `json:"index"`
	Size  uint64   `json:"size"`
	Leaf  string   `json:"leaf"`
	Root  string   `json:"root"`
	Proof []string `json:"proof"`
}

type consistencyVector struct {
	Kind    string   `json:"kind"`
	OldSize uint64   `json:"old_size"`
	OldRoot string   `json:"old_root"`
	NewSize uint64   `json:"new_size"`
	NewRoot string   `json:"new_root"`
	Proof   []string `json:"proof"`
}

// runVectors prints positive vectors; leaf i of their tree is the decimal number i.
func runVectors(arguments []string) error {
	largest, err := strconv.ParseUint(arguments[0], 10, 16)
	if err != nil {
		return errUsage
	}
	tree := testonly.New(rfc6962.DefaultHasher)
	lines := json.NewEncoder(os.Stdout)
	for size := uint64(1); size <= largest; size++ {
		tree.AppendData([]byte(strconv.FormatUint(size-1, 10)))
		root := hex.EncodeToString(tree.HashAt(size))
		for index := range size {
			hashes, err := tree.InclusionProof(index, size)
			if err != nil {
				return err
			}
			leaf := hex.EncodeToString(tree.LeafHash(index))
			if err := lines.Encode(inclusionVector{"inclusion", index, size, leaf, root, hexes(hashes)}); err != nil {
				return err
			}
			old := index + 1
			hashes, err = tree.ConsistencyProof(old, size)
			if err != nil {
				return err
			}
			oldRoot := hex.EncodeToString(tree.HashAt(old))
			if err := lines.Encode(consistencyVector{"consistency", old, oldRoot, size, root, hexes(hashes)}); err != nil {
				return err
			}
		}
	}
	return nil
}

func hexes(hashes [][]byte) []string {
	written := make([]string, len(hashes))
	for i, hash := range hashes {
		written[i] = hex.EncodeToString(hash)
	}
	return written
}

func readText(path string) (string, error) {
	data, err := os.ReadFile(path)
	return strings.TrimSpace(string(data)), err
}
