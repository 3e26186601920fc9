package gexec

import (
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"

	"github.com/onsi/ginkgo/v2"
)

// Build gives a program that has been built already: a plugin of the set under test, or a tool of the test.
func Build(packagePath string, _ ...string) (string, error) {
	directory := os.Getenv("UPSTREAM_TOOLS")
	if strings.Contains(packagePath, "/plugins/plugins/") {
		directory = os.Getenv("UPSTREAM_PLUGINS")
	}
	return filepath.Join(directory, path.Base(packagePath)), nil
}

// Start notes which cases call a plugin.
func Start(command *exec.Cmd, outWriter io.Writer, errWriter io.Writer) (*Session, error) {
	if filepath.Dir(command.Path) == os.Getenv("UPSTREAM_PLUGINS") || filepath.Base(command.Path) == "cnitool" {
		ginkgo.AddReportEntry("calls the program", ginkgo.ReportEntryVisibilityNever)
	}
	return originalStart(command, outWriter, errWriter)
}
