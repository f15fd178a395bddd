package main

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"syncline/activities/codec"
)

// payloadKeysCommand makes and alters keyrings. It writes them nowhere: where a keyring
// is kept is the business of whoever may write there.
func (t *tool) payloadKeysCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "payload-keys", Short: "make and rotate the keys that encrypt what Temporal keeps",
		Long: `payload-keys makes and alters the keyring that SYNCLINE_PAYLOAD_KEYS names. It reads
the keyring of before from standard input and writes the new one to standard output,
which it will not do to a terminal without --show. Only used connects to anything.`,
		Args: func(_ *cobra.Command, a []string) error {
			if len(a) == 0 {
				return invalid("payload-keys takes a command: new, add, use, stop, retire, list or used (fix: starter payload-keys new)")
			}
			return invalid("%q is not a command of payload-keys (fix: new, add, use, stop, retire, list or used)", a[0])
		},
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	cmd.AddCommand(t.newKeysCommand(), t.addKeyCommand(), t.useKeyCommand(), t.stopKeysCommand(), t.retireKeyCommand(), t.listKeysCommand(), t.usedKeysCommand())
	return cmd
}

func showFlag(cmd *cobra.Command, show *bool) *cobra.Command {
	cmd.Flags().BoolVar(show, "show", false, "write the keys even if standard output is a terminal")
	return cmd
}

// writeRing puts a keyring out; it is JSON with and without --json.
func (t *tool) writeRing(ring codec.Keyring, err error, show bool) error {
	if err != nil {
		return invalid("%w", err)
	}
	if t.terminal && !show {
		return invalid("the keyring would show on the terminal (fix: send the output to where it is kept, or give --show)")
	}
	_, err = fmt.Fprintln(t.out, ring.Reveal())
	return err
}

func (t *tool) readRing() (codec.Keyring, error) {
	b, err := io.ReadAll(io.LimitReader(t.in, 1<<20))
	if err != nil {
		return codec.Keyring{}, invalid("the keyring cannot be read: %w (fix: give it on standard input)", err)
	}
	if len(b) == 0 {
		return codec.Keyring{}, invalid("there is no keyring on standard input (fix: give it there; starter payload-keys new makes the first)")
	}
	ring, err := codec.ParseKeyring(string(b))
	if err != nil {
		return codec.Keyring{}, invalid("%w", err)
	}
	return ring, nil
}

func (t *tool) newKeysCommand() *cobra.Command {
	var id string
	var later, show bool
	cmd := &cobra.Command{
		Use: "new", Short: "make a keyring with one key",
		Long: `new makes a keyring with one key, which encrypts. With --later it only reads until
payload-keys use names it: so every worker has the key before the first one encrypts.`,
		Args: args(0, 0, "no argument"),
		RunE: func(*cobra.Command, []string) error {
			ring, err := codec.Keyring{}.Add(orNewID(id), !later)
			return t.writeRing(ring, err, show)
		},
	}
	cmd.Flags().StringVar(&id, "id", "", "`ID` of the key, which shows in Temporal (else the day and a random number)")
	cmd.Flags().BoolVar(&later, "later", false, "encrypt nothing yet")
	return showFlag(cmd, &show)
}

func (t *tool) stopKeysCommand() *cobra.Command {
	var show bool
	return showFlag(&cobra.Command{
		Use: "stop", Short: "encrypt nothing more; the keys are kept for reading",
		Args: args(0, 0, "no argument"),
		RunE: func(*cobra.Command, []string) error {
			ring, err := t.readRing()
			if err != nil {
				return err
			}
			return t.writeRing(ring.Stop(), nil, show)
		},
	}, &show)
}

func orNewID(id string) string {
	if id == "" {
		return codec.NewKeyID(time.Now())
	}
	return id
}

func (t *tool) addKeyCommand() *cobra.Command {
	var id string
	var later, show bool
	cmd := &cobra.Command{
		Use: "add", Short: "add a key that encrypts from now on",
		Long: `add puts a new key into a keyring, which encrypts from now on; the others are kept for
reading. With --later the key only reads until payload-keys use names it: for keyrings
in files, which reach one machine after the other.`,
		Args: args(0, 0, "no argument"),
		RunE: func(*cobra.Command, []string) error {
			ring, err := t.readRing()
			if err != nil {
				return err
			}
			ring, err = ring.Add(orNewID(id), !later)
			return t.writeRing(ring, err, show)
		},
	}
	cmd.Flags().StringVar(&id, "id", "", "`ID` of the key, which shows in Temporal (else the day and a random number)")
	cmd.Flags().BoolVar(&later, "later", false, "go on encrypting with the key of before")
	return showFlag(cmd, &show)
}

func (t *tool) useKeyCommand() *cobra.Command {
	var show bool
	return showFlag(&cobra.Command{
		Use: "use ID", Short: "encrypt with another key of the keyring",
		Args: args(1, 1, "the id of one key"),
		RunE: func(_ *cobra.Command, a []string) error {
			ring, err := t.readRing()
			if err != nil {
				return err
			}
			ring, err = ring.Use(a[0])
			return t.writeRing(ring, err, show)
		},
	}, &show)
}

func (t *tool) retireKeyCommand() *cobra.Command {
	var show bool
	return showFlag(&cobra.Command{
		Use: "retire ID", Short: "remove a key: what it encrypted cannot be read any more",
		Args: args(1, 1, "the id of one key"),
		RunE: func(_ *cobra.Command, a []string) error {
			ring, err := t.readRing()
			if err != nil {
				return err
			}
			ring, err = ring.Retire(a[0])
			return t.writeRing(ring, err, show)
		},
	}, &show)
}

func (t *tool) listKeysCommand() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "list the ids of a keyring, without its keys",
		Args: args(0, 0, "no argument"),
		RunE: func(*cobra.Command, []string) error {
			ring, err := t.readRing()
			if err != nil {
				return err
			}
			return t.print(map[string]any{"current": ring.Current(), "keys": ring.IDs()}, func() {
				for _, id := range ring.IDs() {
					mark := ""
					if id == ring.Current() {
						mark = "  current"
					}
					fmt.Fprintln(t.out, id+mark)
				}
			})
		},
	}
}
