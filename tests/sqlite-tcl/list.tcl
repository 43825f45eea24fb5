# What `list.txt` says, for `tests/sqlite-tcl.sh`:
#
#     tclsh list.tcl LIST select MODE SOURCES ?PATTERN…?    the scripts to be run, by path below SOURCES
#     tclsh list.tcl LIST compare RESULTS SCRIPT…           whether what came out is what the list says
#
# The list has a line for each script of the package, by file name:
#
#     = KEY REASON                   a reason why something cannot apply
#     SCRIPT pass CASES ?quick?      it runs to its end, with so many test cases
#         CASE… KEY                  of the script above: cases that fail, for this reason
#     SCRIPT n/a KEY                 it cannot apply
#
# A CASE is a name or a pattern of Tcl's `string match`.

proc read_list {path} {
  global reasons entries exceptions
  set channel [open $path]
  set script ""
  set used {}
  foreach line [split [read $channel] \n] {
    if {[string trim $line] eq "" || [string match #* $line]} continue
    set words [regexp -all -inline {\S+} $line]
    if {[string match =* $line]} {
      set reasons([lindex $words 1]) [lrange $words 2 end]
    } elseif {[string match { *} $line]} {
      foreach case [lrange $words 0 end-1] { lappend exceptions($script) $case }
      lappend used [lindex $words end]
    } else {
      set script [lindex $words 0]
      set entries($script) [lrange $words 1 end]
      set exceptions($script) {}
      if {[lindex $words 1] eq "n/a"} { lappend used [lindex $words 2] }
    }
  }
  close $channel
  foreach key [lsort -unique $used] {
    if {![info exists reasons($key)]} { puts stderr "list.txt: no reason '$key'"; exit 2 }
  }
}

# All scripts of the package: file name -> path below `sources`.
proc scripts_of {sources} {
  foreach pattern {test/*.test ext/*/*.test ext/*/test/*.test} {
    foreach path [glob -nocomplain -directory $sources -tails $pattern] {
      dict set found [file tail $path] $path
    }
  }
  return [lsort -stride 2 $found]
}

proc select {mode sources patterns} {
  global entries
  dict for {name path} [scripts_of $sources] {
    set entry [expr {[info exists entries($name)] ? $entries($name) : "unlisted"}]
    if {[llength $patterns]} {
      set wanted 0
      foreach pattern $patterns { if {[string match $pattern $name]} { set wanted 1 } }
    } else {
      switch $mode {
        quick   { set wanted [expr {"quick" in $entry}] }
        listed  { set wanted [expr {[lindex $entry 0] ne "n/a"}] }
        default { set wanted [expr {$entry ne "n/a wrapper"}] }
      }
    }
    if {$wanted} { puts $path }
  }
}

# The words for what differs from the list, or nothing.
proc difference {name outcome} {
  global entries exceptions
  if {![info exists entries($name)]} { return "is not in the list" }
  lassign $entries($name) listed listed_cases
  if {$listed eq "n/a"} { return "" }
  set rest [lassign $outcome word cases]
  if {$word ni {pass fail}} { return "$word: [lrange $outcome 1 end]" }
  set unexpected {}
  foreach case $rest {
    set expected 0
    foreach pattern $exceptions($name) { if {[string match $pattern $case]} { set expected 1 } }
    if {!$expected} { lappend unexpected $case }
  }
  if {[llength $unexpected]} { return "fails: $unexpected" }
  foreach pattern $exceptions($name) {
    if {[lsearch -glob $rest $pattern]<0} { return "does not fail any more: $pattern" }
  }
  # Where threads or chance decide how many cases there are, it is about as many.
  if {$cases < 0.9*$listed_cases} { return "has $cases cases, listed are $listed_cases" }
  return ""
}

proc compare {results scripts} {
  array set count {scripts 0 pass 0 cases 0 excepted 0 n/a 0}
  set differences {}
  foreach script $scripts {
    set name [file tail $script]
    set channel [open $results/$name]
    set outcome [lrange [split [string trim [read $channel]]] 1 end]
    close $channel
    set difference [difference $name $outcome]
    incr count(scripts)
    if {$difference ne ""} {
      lappend differences [format "%-24s %s" $name $difference]
    } elseif {[lindex $::entries($name) 0] eq "n/a"} {
      incr count(n/a)
    } else {
      incr count(pass)
      incr count(cases) [lindex $outcome 1]
      incr count(excepted) [expr {[llength $outcome]-2}]
    }
  }
  puts "\n$count(scripts) scripts: $count(pass) as listed, with [expr {$count(cases)-$count(excepted)}] test cases that pass and\
    $count(excepted) that cannot apply; $count(n/a) that cannot apply as a whole; [llength $differences] not as listed"
  foreach difference $differences { puts "  $difference" }
  exit [expr {[llength $differences]>0}]
}

array set reasons {}
array set entries {}
array set exceptions {}
lassign $argv list command
read_list $list
switch $command {
  select { select [lindex $argv 2] [lindex $argv 3] [lrange $argv 4 end] }
  compare { compare [lindex $argv 2] [lrange $argv 3 end] }
}
