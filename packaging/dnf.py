# On a machine that Cordon restricts, the agent verifies the signatures of what dnf
# is about to install, and lets it run; the transaction is not begun if it is
# refused. This is a plugin of dnf 4; see packaging/postinstall.sh for its place.
import os
import subprocess

import dnf
import dnf.exceptions

PROGRAM = "/usr/bin/cordon"


class Cordon(dnf.Plugin):
    name = "cordon"

    def pre_transaction(self):
        files = [p.localPkg() for p in self.base.transaction.install_set]
        if not files or not os.access(PROGRAM, os.X_OK):
            return
        r = subprocess.run([PROGRAM, "agent", "admit", "-"], input="\n".join(files) + "\n",
                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True)
        if r.returncode != 0:
            raise dnf.exceptions.Error(r.stdout.strip())
