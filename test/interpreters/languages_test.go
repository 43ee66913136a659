package interpreters

// prepare makes what the guest's own programs have to make, before the restriction.
const prepare = `
# Where its programs do not load, the agent falls back, and all of this would be about fanotify.
cordon agent status | grep '^Enforcer *bpf,'
` + scripts + `
echo 'path /opt/good' >> /etc/cordon/trust.rules
# It counts while restricted if it is in the set before.
until journalctl -u cordon-agent -o cat | grep 'trust set built' | tail -n 1 | grep -q 'summary.rule.programs=[0-9][0-9]'; do sleep 1; done
`

// scripts are the same texts, to be executed by name.
const scripts = `
for i in ruby node php lua tclsh gawk python3 perl; do
	case $i in tclsh) f=tcl ;; gawk) f=awk ;; python3) f=python ;; *) f=$i ;; esac
	o=; [ $i = gawk ] && o=' -f'
	for d in /root/u /opt/good /root/own; do
		{ echo "#!/usr/bin/$i$o"; cat $d/$f.txt; } > $d/$f.run
		chmod +x $d/$f.run
	done
done
`

// admit has the server trust what is in /root/own.
const admit = `
for f in /root/own/*; do cordon trust add $(sha256sum < $f | cut -c1-64) --machine vm --comment tests; done
`

// language is an interpreter. text leaves a marker; all lines have it run, those
// in allowed from files that are trusted.
type language struct {
	name, text, comment string
	files               map[string]string // TEXT in them is the text
	allowed, refused    []string
}

const javaText = `class C { public static void main(String[] a) throws Exception { new java.io.FileOutputStream(System.getenv("MARKER")).close(); } }` + "\n"

var languages = []language{
	{
		name: "ruby", text: `File.write(ENV["MARKER"], "")` + "\n", comment: "#",
		files: map[string]string{
			"/opt/good/ruby.txt": "require 'json'\nrequire 'set'\nrequire 'yaml'\nrequire 'fileutils'\nJSON.parse('[1]')\nYAML.load('a: 1')\nFileUtils.touch(ENV['MARKER'])\n",
			"/opt/good/quiet.rb": "", "/opt/good/load.rb": "require ENV['WHAT']\n", "/opt/good/read.rb": "load ENV['WHAT']\n",
			"evil.rb": "TEXT",
		},
		allowed: []string{"again ruby /opt/good/ruby.txt", "/opt/good/ruby.run", "ruby -w -- /opt/good/ruby.txt x", "again ruby /root/own/ruby.txt", "/root/own/ruby.run",
			"ruby -v && touch $MARKER", "ruby --version && touch $MARKER", "gem --version && touch $MARKER", "gem list && touch $MARKER", "cat ruby.txt | ruby /opt/good/ruby.txt"},
		refused: []string{"ruby ruby.txt", "ruby -w ./ruby.txt", "./ruby.run", "ruby evil.rb", "ln -sf ruby.txt l; ruby l", `ruby -e "$(cat ruby.txt)"`, `ruby -ne "$(cat ruby.txt)" /etc/hostname`,
			"ruby < ruby.txt", "cat ruby.txt | ruby", "cat ruby.txt | ruby -", "cat ruby.txt | ruby - x", "cat ruby.txt | ruby /dev/stdin", "cat ruby.txt | ruby /./dev/stdin", "ruby <(cat ruby.txt)", "ruby <<E\n$(cat ruby.txt)\nE",
			"ruby -r./evil /opt/good/quiet.rb", "ruby -I. -revil /opt/good/quiet.rb", "RUBYOPT=-r./evil ruby /opt/good/quiet.rb", "RUBYLIB=. RUBYOPT=-revil /opt/good/ruby.run", "WHAT=./evil ruby /opt/good/load.rb", "WHAT=./evil.rb ruby /opt/good/read.rb",
			"ln -sf ruby.txt linked.rb; ruby -r./linked /opt/good/quiet.rb", "ln -sf ruby.txt linked.rb; WHAT=./linked.rb ruby /opt/good/read.rb", "rm -f fifo.rb; mkfifo fifo.rb; cat ruby.txt > fifo.rb & WHAT=./fifo.rb timeout 20 ruby /opt/good/read.rb; kill $!",
			"ruby --encoding UTF-8 ruby.txt", "ruby --external-encoding UTF-8 ruby.txt", "ruby --disable gems ruby.txt", "ruby -X /root/u ruby.txt", "ruby -C /root/u ruby.txt", "ruby -E UTF-8 ruby.txt", "ruby -v ruby.txt", "ruby -x ruby.run",
			"rm -f p; mkfifo p; cat ruby.txt > p & timeout 20 ruby p; kill $!"},
	},
	{
		name: "node", text: `require("fs").writeFileSync(process.env.MARKER, "")` + "\n", comment: "//",
		files: map[string]string{
			"/opt/good/node.txt": "const fs = require('fs'), os = require('os'), url = require('url'), z = require('zlib'); z.gzipSync('x'); new URL('http://x/');\nfs.writeFileSync(process.env.MARKER, os.hostname())\n",
			"/opt/good/good.mjs": "import fs from 'fs'; import { join } from 'path';\nfs.writeFileSync(join(process.env.MARKER), '')\n",
			"/opt/good/quiet.js": "", "/opt/good/load.js": "require(process.env.WHAT)\n", "/opt/good/load.mjs": "await import(process.env.WHAT)\n",
			"evil.js": "TEXT", "evil.mjs": "import fs from 'fs'; fs.writeFileSync(process.env.MARKER, '')\n", "evil.cjs": "TEXT",
			"pack/package.json": `{"main": "x.txt"}`, "pack/x.txt": "TEXT", "home/.node_modules/found/package.json": `{"main": "x.txt"}`, "home/.node_modules/found/x.txt": "TEXT",
		},
		allowed: []string{"again node /opt/good/node.txt", "/opt/good/node.run", "node /opt/good/good.mjs", "node -- /opt/good/node.txt x", "node --max-old-space-size=200 /opt/good/node.txt", "node --no-warnings /opt/good/node.txt /etc/hostname", "again node /root/own/node.txt", "/root/own/node.run",
			"node -v && touch $MARKER", "node --version && touch $MARKER", "WHAT=/usr/share/nodejs/acorn/dist/acorn.js node /opt/good/load.js && touch $MARKER", "echo 1 | acorn && touch $MARKER"},
		refused: []string{"node node.txt", "node ./node.txt", "./node.run", "node evil.js", "node evil", "node evil.mjs", "node evil.cjs", "ln -sf node.txt l; node l", `node -e "$(cat node.txt)"`, `node -pe "$(cat node.txt)"`, `node --eval "$(cat node.txt)"`, `node --print "$(cat node.txt)"`, `node --eval="$(cat node.txt)"`,
			"node < node.txt", "cat node.txt | node", "cat node.txt | node -", "node <<E\n$(cat node.txt)\nE", "cat node.txt | node -i",
			"node -r ./evil.js /opt/good/quiet.js", "node -r ./node.txt /opt/good/quiet.js", "node --require ./node.txt /opt/good/quiet.js", "node --import ./evil.mjs /opt/good/quiet.js", "node --experimental-loader ./evil.mjs /opt/good/quiet.js", "node --experimental_loader ./evil.mjs /opt/good/quiet.js",
			"NODE_OPTIONS='--require /root/u/evil.js' node /opt/good/quiet.js", "NODE_OPTIONS='--require /root/u/node.txt' node /opt/good/quiet.js", "NODE_OPTIONS='--require /root/u/node.txt' /opt/good/node.run",
			`NODE_OPTIONS="--import=data:text/javascript,import('fs').then(f=>f.writeFileSync(process.env.MARKER,''))" node /opt/good/quiet.js`,
			"WHAT=/root/u/evil.js node /opt/good/load.js", "WHAT=/root/u/evil.mjs node /opt/good/load.mjs", "WHAT=found HOME=/root/u/home node /opt/good/load.js", "WHAT=/root/u/pack node /opt/good/load.js", "ln -sf node.txt linked.js; WHAT=/root/u/linked.js node /opt/good/load.js",
			"node pack", "node ./pack", "node --title x node.txt", "node --conditions x node.txt", "node -C x node.txt", "node --trace-warnings node.txt", "node --test node.txt", "node --redirect-warnings /dev/null node.txt",
			"rm -f p; mkfifo p; cat node.txt > p & timeout 60 node p; kill $!"},
	},
	{
		name: "php", text: `<?php touch(getenv("MARKER"));` + "\n", comment: "//",
		files: map[string]string{
			"/opt/good/php.txt":   "<?php json_decode('[1]'); preg_match('/a/', 'a'); hash('sha256', 'x'); file_put_contents(getenv('MARKER'), date('c'));\n",
			"/opt/good/quiet.php": "<?php\n", "/opt/good/load.php": "<?php include getenv('WHAT');\n",
			"evil.php": "TEXT", "evil.inc": "TEXT", "ini/php.ini": "auto_prepend_file=/root/u/php.txt\n", "x.ini": "auto_prepend_file=/root/u/php.txt\n",
		},
		allowed: []string{"again php /opt/good/php.txt", "/opt/good/php.run", "php -f /opt/good/php.txt", "php -d memory_limit=64M /opt/good/php.txt -- x", "again php /root/own/php.txt", "/root/own/php.run", "php -v && touch $MARKER", "php -m && touch $MARKER", "php -i >/dev/null && touch $MARKER", "phar help && touch $MARKER"},
		refused: []string{"php php.txt", "php ./php.txt", "./php.run", "php evil.php", "ln -sf php.txt l; php l", `php -r 'touch(getenv("MARKER"));'`, `php --run 'touch(getenv("MARKER"));'`, `echo | php -R 'touch(getenv("MARKER"));'`, `php -B 'touch(getenv("MARKER"));' < /dev/null`,
			"php < php.txt", "cat php.txt | php", "cat php.txt | php -- /opt/good/quiet.php", "cat php.txt | php /dev/stdin", "cat php.txt | php /./dev/stdin", "php <(cat php.txt)", "php <<E\n$(cat php.txt)\nE",
			"php -f php.txt", "php -fphp.txt", "php --file php.txt", "php --file=php.txt", "echo | php -F php.txt", "echo | php --process-file php.txt", "php -d x=1 php.txt", "php --define x=1 php.txt", "php -n php.txt", "php -c /root/u php.txt",
			"php -d auto_prepend_file=/root/u/php.txt /opt/good/quiet.php", "php -dauto_prepend_file=/root/u/php.txt /opt/good/quiet.php", "php --define auto_prepend_file=/root/u/php.txt /opt/good/quiet.php", "php -d auto_append_file=/root/u/php.txt /opt/good/quiet.php", "php -c /root/u/ini /opt/good/quiet.php", "php -c x.ini /opt/good/quiet.php", "php --php-ini x.ini /opt/good/quiet.php", "PHPRC=/root/u/x.ini php /opt/good/quiet.php", "PHP_INI_SCAN_DIR=/root/u php /opt/good/quiet.php",
			"WHAT=/root/u/evil.php php /opt/good/load.php", "WHAT=/root/u/evil.inc php /opt/good/load.php", "WHAT=evil.php php -d include_path=/root/u /opt/good/load.php",
			"rm -f p; mkfifo p; cat php.txt > p & timeout 20 php p; kill $!"},
	},
	{
		name: "lua", text: `io.open(os.getenv("MARKER"), "w"):close()` + "\n", comment: "--",
		files: map[string]string{
			"/opt/good/lua.txt":   "assert(string.format('%d', 1) == '1' and table.concat({1}) and math.floor(1.5))\nio.open(os.getenv('MARKER'), 'w'):close()\n",
			"/opt/good/quiet.lua": "", "/opt/good/load.lua": "require(os.getenv('WHAT'))\n", "/opt/good/read.lua": "dofile(os.getenv('WHAT'))\n",
			"evil.lua": "TEXT",
		},
		allowed: []string{"again lua /opt/good/lua.txt", "/opt/good/lua.run", "lua5.4 -W -- /opt/good/lua.txt x", "lua -v /opt/good/lua.txt", "again lua /root/own/lua.txt", "/root/own/lua.run", "lua -v && touch $MARKER"},
		refused: []string{"lua lua.txt", "lua ./lua.txt", "./lua.run", "lua evil.lua", "ln -sf lua.txt l; lua l", `lua -e "$(cat lua.txt)"`, `lua -e "$(cat lua.txt)" /opt/good/quiet.lua`, "lua < lua.txt", "cat lua.txt | lua", "cat lua.txt | lua -", "cat lua.txt | lua /dev/stdin", "cat lua.txt | lua /./dev/stdin", "lua <(cat lua.txt)", "lua <<E\n$(cat lua.txt)\nE", "cat lua.txt | lua -i /opt/good/quiet.lua",
			"lua -l evil /opt/good/quiet.lua", "lua -levil /opt/good/quiet.lua", "LUA_PATH='./?.txt' lua -l lua /opt/good/quiet.lua", "WHAT=evil lua /opt/good/load.lua", "WHAT=evil.lua lua /opt/good/read.lua", "LUA_PATH='./?.lua' WHAT=evil lua /opt/good/load.lua",
			"LUA_INIT=@lua.txt lua /opt/good/quiet.lua", `LUA_INIT="$(cat lua.txt)" lua /opt/good/quiet.lua`, `LUA_INIT_5_4="$(cat lua.txt)" /opt/good/lua.run`, "lua -v lua.txt", "lua -E lua.txt", "ln -sf lua.txt linked.lua; WHAT=linked lua /opt/good/load.lua",
			"rm -f p; mkfifo p; cat lua.txt > p & timeout 20 lua p; kill $!", "rm -f fifo.lua; mkfifo fifo.lua; cat lua.txt > fifo.lua & WHAT=fifo.lua timeout 20 lua /opt/good/read.lua; kill $!"},
	},
	{
		name: "tcl", text: `close [open $::env(MARKER) w]` + "\n", comment: "#",
		files: map[string]string{
			"/opt/good/tcl.txt":   "package require msgcat\npackage require http\nparray tcl_platform\nclose [open $env(MARKER) w]\n",
			"/opt/good/quiet.tcl": "", "/opt/good/load.tcl": "source $env(WHAT)\n", "/opt/good/auto.tcl": "evilproc\n", "/opt/good/package.tcl": "package require evil\n",
			"evil.tcl": "TEXT", "lib/tclIndex": "# Tcl autoload index file, version 2.0\nset auto_index(evilproc) {}\nTEXTproc evilproc {} {}\n", "lib2/pkgIndex.tcl": "TEXTpackage provide evil 1\n", "evil-1.tm": "TEXTpackage provide evil 1\n",
		},
		allowed: []string{"again tclsh /opt/good/tcl.txt", "/opt/good/tcl.run", "tclsh -encoding utf-8 /opt/good/tcl.txt", "tclsh /opt/good/tcl.txt -x", "again tclsh /root/own/tcl.txt", "/root/own/tcl.run"},
		refused: []string{"tclsh tcl.txt", "tclsh ./tcl.txt", "./tcl.run", "tclsh evil.tcl", "ln -sf tcl.txt l; tclsh l", "tclsh < tcl.txt", "cat tcl.txt | tclsh", "cat tcl.txt | tclsh -", "cat tcl.txt | tclsh -x /opt/good/quiet.tcl", "cat tcl.txt | tclsh -- /opt/good/quiet.tcl", "cat tcl.txt | tclsh -encoding utf-8", "cat tcl.txt | tclsh /dev/stdin", "cat tcl.txt | tclsh /./dev/stdin", "tclsh <(cat tcl.txt)", "tclsh <<E\n$(cat tcl.txt)\nE",
			"tclsh -encoding utf-8 tcl.txt", "WHAT=evil.tcl tclsh /opt/good/load.tcl", "TCLLIBPATH=/root/u/lib tclsh /opt/good/auto.tcl", "TCLLIBPATH=/root/u/lib2 tclsh /opt/good/package.tcl", "TCL8_6_TM_PATH=/root/u tclsh /opt/good/package.tcl", "ln -sf tcl.txt linked.tcl; WHAT=linked.tcl tclsh /opt/good/load.tcl",
			"rm -f p; mkfifo p; cat tcl.txt > p & timeout 20 tclsh p; kill $!"},
	},
	{
		name: "awk", text: `BEGIN { printf "" > ENVIRON["MARKER"] }` + "\n", comment: "#",
		files:   map[string]string{"/opt/good/awk.txt": "BEGIN { x = toupper(\"x\"); printf \"\" > ENVIRON[\"MARKER\"] }\n", "evil.awk": "TEXT"},
		allowed: []string{"again gawk -f /opt/good/awk.txt", "mawk -f /opt/good/awk.txt", "gawk --file=/opt/good/awk.txt", "mawk -W exec /opt/good/awk.txt", "/opt/good/awk.run", "again gawk -f /root/own/awk.txt", "/root/own/awk.run", `gawk "$(cat awk.txt)"`, `mawk "$(cat awk.txt)"`},
		refused: []string{"gawk -f awk.txt", "mawk -f awk.txt", "awk -fawk.txt", "gawk --file awk.txt", "gawk -E awk.txt", "gawk --exec awk.txt", "gawk --file=awk.txt", "gawk --fil=awk.txt", "mawk -W exec awk.txt", "./awk.run", "gawk -i evil.awk 'BEGIN {}'", "mawk -We awk.txt"},
	},
	{
		name: "java", text: javaText, comment: "//",
		files:   map[string]string{"Source.java": "TEXT", "args": "-cp Evil.txt Evil\n"},
		allowed: []string{"java -jar /opt/good/Good.jar", "java -cp /opt/good:/x Good", "java -version && touch $MARKER", "again java -jar /root/own/Own.jar", "keytool -help && touch $MARKER"},
		refused: []string{"java -jar Evil.jar", "java -jar Evil.txt", "java -cp . Evil", "java -cp '*' Evil", "java -cp x:./Evil.txt// Evil", "java --class-path=x:y:z:w:v:Evil.txt Evil", "CLASSPATH=Evil.txt java Evil", "java -Djava.class.path=Evil.txt Evil", "java @args",
			"JDK_JAVA_OPTIONS='-cp Evil.txt' java Evil", "JAVA_TOOL_OPTIONS=-javaagent:Evil.txt java -version", "java -javaagent:Evil.txt -version", "keytool -J-javaagent:Evil.txt -help", "java -Xbootclasspath/a:Evil.txt Evil",
			"java Source.java", "java --source 17 java.txt", "java -m jdk.compiler/com.sun.tools.javac.launcher.Main java.txt", "jshell -s --execution local <<< 'new java.io.FileOutputStream(System.getenv(\"MARKER\")).close();'"},
	},
	{
		name: "python", text: `open(__import__("os").environ["MARKER"], "w")` + "\n", comment: "#",
		files:   map[string]string{"/opt/good/python.txt": "import json, re, ssl, os\nopen(os.environ['MARKER'], 'w')\n", "/opt/good/quiet.py": "", "/opt/good/zip.py": "import zipped\n", "evil.py": "TEXT"},
		allowed: []string{"again python3 /opt/good/python.txt", "/opt/good/python.run", "again python3 /root/own/python.txt", "/root/own/python.run", "python3 --version && touch $MARKER"},
		refused: []string{"python3 python.txt", "./python.run", `python3 -c "$(cat python.txt)"`, "cat python.txt | python3", "cat python.txt | python3 -i /opt/good/quiet.py", "cat python.txt | script -qec 'PYTHON_BASIC_REPL=1 PYTHONINSPECT=1 python3 /opt/good/quiet.py' /dev/null", "python3 --check-hash-based-pycs default python.txt", "python3 /opt/good/zip.py", "PYTHONPATH=. python3 -m evil", "python3 -m evil",
			"cat python.txt | python3 /./dev/stdin", "rm -f p; mkfifo p; cat python.txt > p & timeout 20 python3 p; kill $!", "ln -sf python.txt linked.py; python3 -m linked"},
	},
	{
		name: "perl", text: `open(F, ">", $ENV{MARKER}) or die;` + "\n", comment: "#",
		files:   map[string]string{"/opt/good/perl.txt": "use POSIX; use File::Basename;\nopen(F, '>', $ENV{MARKER});\n", "/opt/good/quiet.pl": "", "Evil.pm": "TEXT 1;"},
		allowed: []string{"again perl /opt/good/perl.txt", "/opt/good/perl.run", "again perl /root/own/perl.txt", "/root/own/perl.run", "perl -v && touch $MARKER"},
		refused: []string{"perl perl.txt", "./perl.run", `perl -e "$(cat perl.txt)"`, "cat perl.txt | perl", "cat perl.txt | perl /./dev/stdin", "rm -f p; mkfifo p; cat perl.txt > p & timeout 20 perl p; kill $!", "{ cat perl.txt; echo 1; } > x; ln -sf x Linked.pm; perl -I. -MLinked /opt/good/quiet.pl",
			`PERL5OPT='-Mstrict;open(F,chr(62),$ENV{MARKER})' perl /opt/good/quiet.pl`, "PERL5LIB=. PERL5OPT=-MEvil perl /opt/good/quiet.pl"},
	},
}
