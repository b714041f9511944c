// Verifies a log that `stagekeeper audit tiles` wrote, with Go's own packages for transparency logs.
//
//	verify_log FOLDER PUBLIC_KEY INDEX ENTRY_FILE [OLDER_CHECKPOINT]
//
// It checks the signature of FOLDER/checkpoint, that the entry is the log's number INDEX, and, where an older checkpoint
// is named, that the log goes on from it.
package main

import (
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

const height = 8

type folder string

func (folder) Height() int                     { return height }
func (folder) SaveTiles([]tlog.Tile, [][]byte) {}

func (root folder) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	var data [][]byte
	for _, tile := range tiles {
		path := strings.Replace(tile.Path(), "tile/8/", "tile/", 1) // the height is not in the paths of c2sp.org/tlog-tiles
		read, err := os.ReadFile(filepath.Join(string(root), path))
		if os.IsNotExist(err) && tile.W < 1<<height { // its full successor holds the same hashes first
			full := tile
			full.W = 1 << height
			path = strings.Replace(full.Path(), "tile/8/", "tile/", 1)
			read, err = os.ReadFile(filepath.Join(string(root), path))
			if err == nil {
				read = read[:tile.W*tlog.HashSize]
			}
		}
		if err != nil {
			return nil, err
		}
		data = append(data, read)
	}
	return data, nil
}

func main() {
	if err := verify(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func verify(arguments []string) error {
	if len(arguments) < 4 {
		return fmt.Errorf("usage: verify_log FOLDER PUBLIC_KEY INDEX ENTRY_FILE [OLDER_CHECKPOINT]")
	}
	root := folder(arguments[0])
	tree, err := checkpoint(filepath.Join(arguments[0], "checkpoint"), arguments[1])
	if err != nil {
		return err
	}
	hashes := tlog.TileHashReader(tree, root)
	index, err := strconv.ParseInt(arguments[2], 10, 64)
	if err != nil {
		return err
	}
	entry, err := os.ReadFile(arguments[3])
	if err != nil {
		return err
	}
	proof, err := tlog.ProveRecord(tree.N, index, hashes)
	if err != nil {
		return err
	}
	if err := tlog.CheckRecord(proof, tree.N, tree.Hash, index, tlog.RecordHash(entry)); err != nil {
		return fmt.Errorf("entry %d: %w", index, err)
	}
	if len(arguments) > 4 {
		old, err := checkpoint(arguments[4], arguments[1])
		if err != nil {
			return err
		}
		history, err := tlog.ProveTree(tree.N, old.N, hashes)
		if err != nil {
			return err
		}
		if err := tlog.CheckTree(history, tree.N, tree.Hash, old.N, old.Hash); err != nil {
			return fmt.Errorf("not the log of the older checkpoint: %w", err)
		}
	}
	fmt.Printf("entry %d of %d is what was sealed\n", index, tree.N)
	return nil
}

func checkpoint(path, key string) (tlog.Tree, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return tlog.Tree{}, err
	}
	verifier, err := note.NewVerifier(key)
	if err != nil {
		return tlog.Tree{}, err
	}
	opened, err := note.Open(text, note.VerifierList(verifier))
	if err != nil {
		return tlog.Tree{}, err
	}
	lines := strings.Split(opened.Text, "\n") // tlog.ParseTree takes only one log's name
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil {
		return tlog.Tree{}, err
	}
	root, err := base64.StdEncoding.DecodeString(lines[2])
	if err != nil || len(root) != tlog.HashSize {
		return tlog.Tree{}, fmt.Errorf("%s has no root", path)
	}
	return tlog.Tree{N: size, Hash: tlog.Hash(root)}, nil
}
