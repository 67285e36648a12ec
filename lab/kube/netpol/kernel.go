package main

import (
	"bytes"
	"fmt"
	"os/exec"
	"strings"
)

// command runs a program on an input and returns its output; an error has what the program said.
func command(input string, name string, arguments ...string) (string, error) {
	run := exec.Command(name, arguments...)
	run.Stdin = strings.NewReader(input)
	var output, said bytes.Buffer
	run.Stdout, run.Stderr = &output, &said
	if err := run.Run(); err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", name, strings.Join(arguments, " "), err, strings.TrimSpace(said.String()))
	}
	return output.String(), nil
}

// apply makes the kernel's state this one: sets first, as rules name them, then all chains in one transaction, then
// what neither needs any more. No packet meets half a state.
func (r ruleset) apply() error {
	before, err := command("", "ipset", "list", "-n")
	if err != nil {
		return err
	}
	if _, err = command(r.setCommands(), "ipset", "restore"); err != nil {
		return err
	}
	saved, err := command("", "iptables-save", "-t", "mangle")
	if err != nil {
		return err
	}
	if _, err = command(r.chainCommands(saved), "iptables-restore", "--noflush", "-w", "5"); err != nil {
		return err
	}
	for _, name := range strings.Fields(before) {
		if _, wanted := r.sets[name]; strings.HasPrefix(name, setPrefix) && !wanted {
			if _, err := command("", "ipset", "destroy", name); err != nil {
				return err
			}
		}
	}
	return nil
}

// setCommands is the input of `ipset restore`: each set is filled beside the old one and swapped in.
func (r ruleset) setCommands() string {
	var text strings.Builder
	for name, members := range r.sets {
		filled := name + ".t"
		fmt.Fprintf(&text, "create %s hash:net -exist\ncreate %s hash:net -exist\nflush %s\n", name, filled, filled)
		for _, member := range members {
			fmt.Fprintf(&text, "add %s %s -exist\n", filled, member)
		}
		fmt.Fprintf(&text, "swap %s %s\ndestroy %s\n", filled, name, filled)
	}
	return text.String()
}

// chainCommands is the input of `iptables-restore --noflush`; `saved` is what `iptables-save` printed.
func (r ruleset) chainCommands(saved string) string {
	var text strings.Builder
	text.WriteString("*mangle\n")
	for chain := range r.chains {
		fmt.Fprintf(&text, ":%s - [0:0]\n", chain)
	}
	var gone []string
	for _, line := range strings.Split(saved, "\n") {
		name, _, _ := strings.Cut(strings.TrimPrefix(line, ":"), " ")
		if strings.HasPrefix(line, ":"+chainPrefix) && r.chains[name] == nil {
			fmt.Fprintf(&text, ":%s - [0:0]\n", name)
			gone = append(gone, name)
		}
	}
	for chain, rules := range r.chains {
		for _, rule := range rules {
			fmt.Fprintf(&text, "-A %s %s\n", chain, rule)
		}
	}
	if enter := "-A FORWARD -j " + rootChain; !strings.Contains(saved, enter+"\n") {
		text.WriteString(enter + "\n")
	}
	for _, chain := range gone {
		fmt.Fprintf(&text, "-X %s\n", chain)
	}
	text.WriteString("COMMIT\n")
	return text.String()
}
