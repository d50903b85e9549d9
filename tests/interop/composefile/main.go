// Composefile loads a compose file the way `docker compose` does, with the library that is inside it.
//
//	composefile FILE ENVFILE   the resolved project as JSON; status 1 and the reason if it is refused
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/compose-spec/compose-go/v2/cli"
)

func run(file, environment string) error {
	options, err := cli.NewProjectOptions([]string{file}, cli.WithEnvFiles(environment), cli.WithDotEnv)
	if err != nil {
		return err
	}
	project, err := options.LoadProject(context.Background())
	if err != nil {
		return err
	}
	resolved, err := project.MarshalJSON()
	if err != nil {
		return err
	}
	_, err = os.Stdout.Write(resolved)
	return err
}

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: composefile FILE ENVFILE")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
