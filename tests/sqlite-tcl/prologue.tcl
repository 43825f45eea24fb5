# Runs one of SQLite's test scripts on facets:
#
#     testfixture prologue.tcl SCRIPT ?OPTIONS?
#
# SQLite's `tester.tcl` and the scripts are used as they are. Lapidary's extension is loaded once
# `tester.tcl` has initialized SQLite, and its VFS is the default from there on. The scripts treat
# databases as files, so Tcl's commands for files are extended to facets, with what `paths.c` provides:
#
#     file exists, isfile, size, delete, copy, rename; glob    a facet counts as a file
#     open, close, hexio_read, hexio_write, md5file           work on a copy, put back if it was to be written
#
# The environment names the extension (LAPIDARY_EXTENSION), what `paths.c` was compiled to
# (LAPIDARY_PATHS) and, for the extension itself, the store (LAPIDARY_STORE).
#
# Lapidary refuses `journal_mode=OFF`. Most scripts that ask for it want their preparations to be fast, so they
# get `journal_mode=MEMORY`.
#
# A store is open in one process. Of tests that are run once with other processes and once with other
# connections of this one, the second kind alone is run; what a child process opens is a file of its own.

namespace eval facets {
  variable extension $::env(LAPIDARY_EXTENSION)
  variable library $::env(LAPIDARY_PATHS)
  variable home [pwd]
  variable installed 0
  variable is_default 0
  variable copies 0
  # Channels of copies: channel -> {path copy writable}.
  variable channels
  array set channels {}
}

# Makes facets the default. SQLite's initialization makes "unix" that, each time.
proc facets::install {} {
  variable installed
  variable is_default
  with_connection {
    if {!$facets::installed} {
      facets_db eval {SELECT load_extension($facets::extension)}
    }
    facets_db eval {SELECT load_extension($facets::library)}
  }
  ::load $facets::library Paths
  set installed 1
  set is_default 1
}

# Runs a script with `facets_db`, a connection that is none of the test's.
proc facets::with_connection {script} {
  sqlite3_original facets_db :memory: -vfs unix
  facets_db enable_load_extension 1
  set code [catch {uplevel 1 $script} result options]
  facets_db close
  return -options $options $result
}

proc facets::is_side_file {path} {
  regexp {(-journal|-wal|-shm)$} $path
}

proc facets::is_facet {path} {
  variable installed
  expr {$installed && $path ne "" && ![is_side_file $path] && [facet_size $path]>=0}
}

# Whether a script that makes a file of this name means a database.
proc facets::is_database_name {path} {
  variable installed
  expr {$installed && [regexp {db[0-9]*$} $path] && ![is_side_file $path]}
}

proc facets::copy_name {} {
  variable home
  variable copies
  return $home/copy-[incr copies]
}

# Runs a script with the name of a file that has the facet's bytes.
proc facets::with_copy {path variable script {put_back 0}} {
  upvar 1 $variable copy
  set copy [copy_name]
  facet_get $path $copy
  set code [catch {uplevel 1 $script} result options]
  if {$code==0 && $put_back} { facet_put $path $copy }
  file_delete_original $copy
  return -options $options $result
}

# ----- file -----

set facets::file_map [namespace ensemble configure ::file -map]
foreach facets::word {exists isfile size delete copy rename} {
  proc facets::file_${facets::word}_original {args} \
    "uplevel 1 \[list [dict get $facets::file_map $facets::word] {*}\$args\]"
}

proc facets::file_exists {path} {
  expr {[file_exists_original $path] || [is_facet $path]}
}

proc facets::file_isfile {path} {
  expr {[file_isfile_original $path] || [is_facet $path]}
}

proc facets::file_size {path} {
  if {[is_facet $path]} { return [facet_size $path] }
  file_size_original $path
}

proc facets::file_delete {args} {
  foreach path $args {
    if {[is_facet $path]} {
      set name [facet_name $path]
      with_connection {
        if {[catch {facets_db eval {SELECT lapidary_delete($name)}}]} {
          facets_db eval {SELECT load_extension($facets::extension)}
          facets_db eval {SELECT lapidary_delete($name)}
        }
      }
    }
  }
  file_delete_original {*}$args
}

# `file copy` and `file rename`, where one of both is a facet or a file becomes one.
proc facets::transfer {word arguments} {
  set paths $arguments
  set force 0
  while {[string match -* [lindex $paths 0]]} {
    if {[lindex $paths 0] eq "-force"} { set force 1 }
    set paths [lrange $paths 1 end]
  }
  if {[llength $paths]!=2} { return 0 }
  lassign $paths from to
  set is_facet [is_facet $from]
  if {!$is_facet && !([file_exists_original $from] && [is_database_name $to])} { return 0 }
  if {!$force && [file_exists $to]} { error "error copying \"$from\" to \"$to\": file already exists" }
  if {$is_facet} {
    with_copy $from copy { facet_put $to $copy }
  } else {
    facet_put $to $from
  }
  if {$word eq "rename"} { file_delete $from }
  return 1
}

proc facets::file_copy {args} {
  if {![transfer copy $args]} { file_copy_original {*}$args }
  return ""
}

proc facets::file_rename {args} {
  if {![transfer rename $args]} { file_rename_original {*}$args }
  return ""
}

set facets::map $facets::file_map
foreach facets::word {exists isfile size delete copy rename} {
  dict set facets::map $facets::word ::facets::file_$facets::word
}
namespace ensemble configure ::file -map $facets::map

# ----- glob, open, close, hexio -----

rename ::glob facets::glob_original
proc ::glob {args} {
  set failed [catch {uplevel 1 [list facets::glob_original {*}$args]} found options]
  if {$failed} { set found {} }
  if {$facets::installed && ![string match -*dir* [join $args]] && ![string match -*type* [join $args]]} {
    set pattern [lindex $args end]
    foreach name [facet_names] {
      if {[string match $pattern $name] && $name ni $found} { lappend found $name }
    }
  }
  if {$failed && ![llength $found]} { return -options $options "no files matched" }
  return $found
}

rename ::open facets::open_original
proc ::open {path args} {
  set mode [lindex $args 0]
  set writable [expr {[string match {*[aw+]*} $mode] || [string match *WR* $mode]}]
  set is_facet [expr {![string match |* $path] && [facets::is_facet $path]}]
  if {!$is_facet && !($writable && [facets::is_database_name $path])} {
    return [uplevel 1 [list facets::open_original $path {*}$args]]
  }
  set copy [facets::copy_name]
  if {$is_facet} { facet_get $path $copy }
  set channel [facets::open_original $copy {*}$args]
  set facets::channels($channel) [list $path $copy $writable]
  return $channel
}

rename ::close facets::close_original
proc ::close {channel args} {
  set result [uplevel 1 [list facets::close_original $channel {*}$args]]
  if {[info exists facets::channels($channel)]} {
    lassign $facets::channels($channel) path copy writable
    unset facets::channels($channel)
    if {$writable} { facet_put $path $copy }
    facets::file_delete_original $copy
  }
  return $result
}

foreach {facets::word facets::put_back} {hexio_read 0 hexio_write 1 md5file 0} {
  rename ::$facets::word facets::${facets::word}_original
  proc ::$facets::word {path args} [string map [list WORD $facets::word PUT_BACK $facets::put_back] {
    if {![facets::is_facet $path]} { return [facets::WORD_original $path {*}$args] }
    facets::with_copy $path copy { facets::WORD_original $copy {*}$args } PUT_BACK
  }]
}

# ----- what happens in `tester.tcl` and after -----

# `tester.tcl` calls it right after it has initialized SQLite, when it is in its directory.
rename ::autoinstall_test_functions facets::autoinstall_test_functions_original
proc ::autoinstall_test_functions {} {
  rename ::autoinstall_test_functions ""
  rename facets::autoinstall_test_functions_original ::autoinstall_test_functions
  autoinstall_test_functions
  facets::install
}

rename ::sqlite3_shutdown facets::sqlite3_shutdown_original
proc ::sqlite3_shutdown {args} {
  set facets::is_default 0
  facets::sqlite3_shutdown_original {*}$args
}

# What initializes SQLite again.
rename ::sqlite3_initialize facets::sqlite3_initialize_original
proc ::sqlite3_initialize {} {
  set result [facets::sqlite3_initialize_original]
  if {$facets::installed && !$facets::is_default && $result eq "SQLITE_OK"} { facets::install }
  return $result
}
foreach facets::word {sqlite3 sqlite3_open sqlite3_open_v2 sqlite3_open16} {
  rename ::$facets::word facets::${facets::word}_original
  proc ::$facets::word {args} [string map [list WORD $facets::word] {
    # Some scripts make the initialization fail.
    if {$facets::installed && !$facets::is_default} { catch { facets::install } }
    uplevel 1 [list facets::WORD_original {*}$args]
  }]
}

rename ::source facets::source_original
proc ::source {args} {
  set result [uplevel 1 [list facets::source_original {*}$args]]
  if {[file tail [lindex $args end]] eq "lock_common.tcl"} {
    set body [info body ::do_multiclient_test]
    proc ::do_multiclient_test [info args ::do_multiclient_test] \
      [string map {"faultsim_delete_and_reopen" "if {\$tn==1} continue; faultsim_delete_and_reopen"} $body]
  }
  return $result
}

# ----- the script -----

# Command by command, so that one that fails outside of a test case does not end the script: it counts as
# a case of its own, called `line-N`.
proc facets::run {path} {
  info script $path
  set channel [open_original $path]
  set command ""
  set line 0
  while {[gets $channel text]>=0} {
    if {$command eq ""} { set first [expr {$line+1}] }
    incr line
    append command $text \n
    if {![info complete $command]} continue
    regsub -all -nocase {(journal_mode *= *)off\M} $command {\1memory} command
    set code [catch {uplevel #0 $command} result options]
    if {$code==2} break
    if {$code==1} {
      puts "line-$first...\n! line-$first: $result\n[dict get $options -errorinfo]"
      incr_ntest
      fail_test line-$first
      # The next one deletes the VFS that its connections use.
      if {[string match *do_faultsim_test* $command]} {
        foreach db {db db2 db3} { catch { $db close } }
      }
    }
    set command ""
  }
  close_original $channel
}

set argv0 [lindex $argv 0]
set argv [lrange $argv 1 end]
facets::run $argv0
# What an aborted script has not done.
finish_test
