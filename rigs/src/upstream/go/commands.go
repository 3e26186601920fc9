package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/onsi/ginkgo/v2"
	"github.com/onsi/gomega"
	gomegatypes "github.com/onsi/gomega/types"
)

// callProgram is what the plugin's command functions do under test: it runs the plugin's program as a runtime would,
// in the network namespace of this thread, and gives what it says as the function would have.
func callProgram(command string, args *skel.CmdArgs) error {
	ginkgo.AddReportEntry("calls the program", ginkgo.ReportEntryVisibilityNever)
	var out bytes.Buffer
	program := exec.Command(filepath.Join(os.Getenv("UPSTREAM_PLUGINS"), pluginUnderTest))
	program.Env = programEnvironment(command, args)
	program.Stdin = bytes.NewReader(args.StdinData)
	program.Stdout = &out
	program.Stderr = os.Stderr
	var exit *exec.ExitError
	switch err := program.Run(); {
	case err == nil:
		_, err = os.Stdout.Write(out.Bytes())
		return err
	case !errors.As(err, &exit):
		return err
	}
	reply := &types.Error{}
	if err := json.Unmarshal(out.Bytes(), reply); err != nil {
		return fmt.Errorf("%s %s failed without an error reply: %q", pluginUnderTest, command, out.String())
	}
	return reply
}

// matchError is MatchError, for programs that say in words of their own what they refuse: the code tells that it is a
// refusal, and neither a failure on the way (5) nor a fault of the plugin (999).
func matchError(expected any, description ...any) gomegatypes.GomegaMatcher {
	return gomega.Or(gomega.MatchError(expected, description...), gomega.WithTransform(refuses, gomega.BeTrue()))
}

// told is Expect(err.Error()), likewise.
type told struct{ err error }

func (t told) To(matcher gomegatypes.GomegaMatcher, description ...any) bool {
	return refuses(t.err) || gomega.Expect(t.err.Error()).To(matcher, description...)
}

func refuses(err any) bool {
	reply, isReply := err.(*types.Error)
	isRefusal := isReply && reply.Msg != "" && reply.Code != 0 && reply.Code != 5 && reply.Code != 999
	return isRefusal && os.Getenv("UPSTREAM_OWN_WORDS") != ""
}

// systemBus is where programs find D-Bus. The functions would take the connection of the case.
var systemBus string

// programEnvironment is that of the test, with the variables that the spec asks for.
func programEnvironment(command string, args *skel.CmdArgs) []string {
	path := args.Path
	for _, variable := range []string{"CNI_PATH", "PATH"} {
		if path == "" {
			path = os.Getenv(variable)
		}
	}
	cniArgs := args.Args
	if cniArgs == "" {
		cniArgs = os.Getenv("CNI_ARGS")
	}
	var environment []string
	for _, variable := range os.Environ() {
		if !strings.HasPrefix(variable, "CNI_") {
			environment = append(environment, variable)
		}
	}
	if systemBus != "" {
		environment = append(environment, "DBUS_SYSTEM_BUS_ADDRESS="+systemBus)
	}
	return append(environment,
		"CNI_COMMAND="+command,
		"CNI_CONTAINERID="+args.ContainerID,
		"CNI_NETNS="+args.Netns,
		"CNI_IFNAME="+args.IfName,
		"CNI_ARGS="+cniArgs,
		"CNI_PATH="+path,
		// The functions never ask whether the namespace is the caller's own.
		"CNI_NETNS_OVERRIDE=1",
	)
}
