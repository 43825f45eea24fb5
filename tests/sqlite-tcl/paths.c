/*
** SQLite's test scripts name their databases by paths, and treat them as files: they delete, copy,
** measure, read and write them. This is what lets them do so with facets, and no part of the product:
**
**   - The VFS "paths", the default once this is loaded. It is Lapidary's, but that a path below the
**     current directory becomes the name of a facet, and that clock and random numbers are those of tests.
**   - Tcl commands. "facet_get PATH FILE" copies the bytes of a facet into a file of the operating
**     system, "facet_put PATH FILE" makes them those of the facet, in one transaction; both through
**     the methods of Lapidary's VFS. "facet_size PATH" is the length, or -1 if there is no such facet.
**     "facet_name PATH" is the name that the path stands for, "facet_names" all that were opened and
**     are there.
**
** SQLite loads it as an extension (for its API), and Tcl as a package (for the commands).
*/
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <tcl.h>
#include "sqlite3ext.h"
SQLITE_EXTENSION_INIT1

static sqlite3_vfs *facets;
static sqlite3_vfs *unixVfs;
static sqlite3_vfs paths;
static char directory[1024];

/* The facet that a full path stands for. */
static const char *facetName(const char *path){
  size_t n = strlen(directory);
  if( strncmp(path, directory, n)==0 && path[n]=='/' ) path += n;
  while( *path=='/' ) path++;
  return path;
}

/* The names that were opened. */
static struct Seen { struct Seen *next; char name[1]; } *seen;

static void see(const char *name){
  struct Seen *one;
  for(one=seen; one; one=one->next) if( strcmp(one->name, name)==0 ) return;
  one = malloc(sizeof(*one) + strlen(name));
  if( one==0 ) return;
  strcpy(one->name, name);
  one->next = seen;
  seen = one;
}

/* What makes a path a name. SQLite gives full names alone to the other methods. */
static int pathsFull(sqlite3_vfs *vfs, const char *path, int n, char *out){
  char full[2048];
  int rc;
  (void)vfs;
  rc = unixVfs->xFullPathname(unixVfs, path, sizeof(full), full);
  if( (rc & 0xff)!=SQLITE_OK ) return rc;
  return facets->xFullPathname(facets, facetName(full), n, out);
}
static int pathsOpen(sqlite3_vfs *vfs, const char *name, sqlite3_file *file, int flags, int *outFlags){
  (void)vfs;
  if( name && (flags & SQLITE_OPEN_MAIN_DB) ) see(name);
  return facets->xOpen(facets, name, file, flags, outFlags);
}
/* The test fixture's VFS "unix" has random numbers that are the same each time, and a clock that scripts set. */
static int pathsRandomness(sqlite3_vfs *vfs, int n, char *out){
  (void)vfs;
  return unixVfs->xRandomness(unixVfs, n, out);
}
static int pathsTime(sqlite3_vfs *vfs, double *out){
  (void)vfs;
  return unixVfs->xCurrentTime(unixVfs, out);
}
static int pathsTime64(sqlite3_vfs *vfs, sqlite3_int64 *out){
  (void)vfs;
  return unixVfs->xCurrentTimeInt64(unixVfs, out);
}

/* An open facet. */
typedef struct Facet { sqlite3_file *file; const char *name; } Facet;

static void closeFacet(Facet *facet){
  if( facet->file->pMethods ){
    facet->file->pMethods->xUnlock(facet->file, SQLITE_LOCK_NONE);
    facet->file->pMethods->xClose(facet->file);
  }
  free(facet->file);
  sqlite3_free_filename((char*)facet->name);
}

/* The facet that a path stands for, locked for reading. */
static int openFacet(Facet *facet, const char *path, int flags){
  char name[2048];
  int rc = pathsFull(0, path, sizeof(name), name);
  if( rc!=SQLITE_OK ) return rc;
  facet->file = calloc(1, facets->szOsFile);
  facet->name = sqlite3_create_filename(name, "", "", 0, 0);
  if( facet->file==0 || facet->name==0 ) return SQLITE_NOMEM;
  rc = facets->xOpen(facets, facet->name, facet->file, flags|SQLITE_OPEN_MAIN_DB, 0);
  if( rc==SQLITE_OK ) rc = facet->file->pMethods->xLock(facet->file, SQLITE_LOCK_SHARED);
  if( rc!=SQLITE_OK ) closeFacet(facet);
  return rc;
}

/* Keeps the store open while the script has no connection. */
static Facet held;

int sqlite3_paths_init(sqlite3 *db, char **message, const sqlite3_api_routines *api){
  (void)db;
  SQLITE_EXTENSION_INIT2(api);
  if( facets==0 ){
    facets = sqlite3_vfs_find("lapidary");
    unixVfs = sqlite3_vfs_find("unix");
    if( facets==0 || unixVfs==0 || getcwd(directory, sizeof(directory))==0 ){
      facets = 0;
      *message = sqlite3_mprintf("no VFS \"lapidary\", or no current directory");
      return SQLITE_ERROR;
    }
    paths = *facets;
    paths.pNext = 0;
    paths.zName = "paths";
    paths.xOpen = pathsOpen;
    paths.xFullPathname = pathsFull;
    paths.xRandomness = pathsRandomness;
    paths.xCurrentTime = pathsTime;
    paths.xCurrentTimeInt64 = pathsTime64;
    if( openFacet(&held, "held", SQLITE_OPEN_READWRITE|SQLITE_OPEN_CREATE)!=SQLITE_OK ) return SQLITE_ERROR;
    held.file->pMethods->xUnlock(held.file, SQLITE_LOCK_NONE);
  }
  if( sqlite3_vfs_register(&paths, 1)!=SQLITE_OK ) return SQLITE_ERROR;
  return SQLITE_OK_LOAD_PERMANENTLY;
}

static int failed(Tcl_Interp *interp, const char *what, int rc){
  char words[512] = "";
  facets->xGetLastError(facets, sizeof(words), words);
  Tcl_SetObjResult(interp, Tcl_ObjPrintf("%s: SQLite's error %d %s", what, rc, words));
  return TCL_ERROR;
}

static int facetSize(void *data, Tcl_Interp *interp, int argc, Tcl_Obj *const argv[]){
  Facet facet;
  sqlite3_int64 size = 0;
  int rc;
  (void)data;
  if( argc!=2 ) return Tcl_WrongNumArgs(interp, 1, argv, "PATH"), TCL_ERROR;
  rc = openFacet(&facet, Tcl_GetString(argv[1]), SQLITE_OPEN_READONLY);
  if( rc!=SQLITE_OK ){
    Tcl_SetObjResult(interp, Tcl_NewIntObj(-1));
    return TCL_OK;
  }
  rc = facet.file->pMethods->xFileSize(facet.file, &size);
  closeFacet(&facet);
  if( rc!=SQLITE_OK ) return failed(interp, "facet_size", rc);
  Tcl_SetObjResult(interp, Tcl_NewWideIntObj(size));
  return TCL_OK;
}

static int facetGet(void *data, Tcl_Interp *interp, int argc, Tcl_Obj *const argv[]){
  Facet facet;
  FILE *out;
  sqlite3_int64 size = 0, at;
  char bytes[65536];
  int rc;
  (void)data;
  if( argc!=3 ) return Tcl_WrongNumArgs(interp, 1, argv, "PATH FILE"), TCL_ERROR;
  rc = openFacet(&facet, Tcl_GetString(argv[1]), SQLITE_OPEN_READONLY);
  if( rc!=SQLITE_OK ) return failed(interp, "facet_get", rc);
  out = fopen(Tcl_GetString(argv[2]), "wb");
  rc = out ? facet.file->pMethods->xFileSize(facet.file, &size) : SQLITE_CANTOPEN;
  for(at=0; rc==SQLITE_OK && at<size; at+=sizeof(bytes)){
    int n = size-at<(int)sizeof(bytes) ? (int)(size-at) : (int)sizeof(bytes);
    rc = facet.file->pMethods->xRead(facet.file, bytes, n, at);
    if( rc==SQLITE_OK && fwrite(bytes, 1, n, out)!=(size_t)n ) rc = SQLITE_IOERR;
  }
  if( out ) fclose(out);
  closeFacet(&facet);
  return rc==SQLITE_OK ? TCL_OK : failed(interp, "facet_get", rc);
}

/* The page size in the header of a database, or what takes the place of one. */
static int pageSize(const unsigned char *header, size_t n){
  int size = n>=18 ? (header[16]<<8 | header[17]) : 0;
  if( size==1 ) size = 65536;
  return size>=512 && (size & (size-1))==0 ? size : 512;
}

static int facetPut(void *data, Tcl_Interp *interp, int argc, Tcl_Obj *const argv[]){
  Facet facet;
  FILE *in;
  unsigned char bytes[65536];
  sqlite3_int64 at = 0;
  size_t n;
  int size, rc;
  (void)data;
  if( argc!=3 ) return Tcl_WrongNumArgs(interp, 1, argv, "PATH FILE"), TCL_ERROR;
  in = fopen(Tcl_GetString(argv[2]), "rb");
  if( in==0 ) return failed(interp, "facet_put: no such file", SQLITE_CANTOPEN);
  rc = openFacet(&facet, Tcl_GetString(argv[1]), SQLITE_OPEN_READWRITE|SQLITE_OPEN_CREATE);
  if( rc!=SQLITE_OK ){
    fclose(in);
    return failed(interp, "facet_put", rc);
  }
  see(facet.name);
  rc = facet.file->pMethods->xLock(facet.file, SQLITE_LOCK_RESERVED);
  if( rc==SQLITE_OK ) rc = facet.file->pMethods->xLock(facet.file, SQLITE_LOCK_EXCLUSIVE);
  n = fread(bytes, 1, 100, in);
  size = pageSize(bytes, n);
  rewind(in);
  while( rc==SQLITE_OK && (n = fread(bytes, 1, size, in))>0 ){
    rc = facet.file->pMethods->xWrite(facet.file, bytes, (int)n, at);
    at += n;
  }
  if( rc==SQLITE_OK ) rc = facet.file->pMethods->xTruncate(facet.file, at);
  if( rc==SQLITE_OK ) rc = facet.file->pMethods->xFileControl(facet.file, SQLITE_FCNTL_COMMIT_PHASETWO, 0);
  fclose(in);
  closeFacet(&facet);
  return rc==SQLITE_OK ? TCL_OK : failed(interp, "facet_put", rc);
}

static int facetNameCommand(void *data, Tcl_Interp *interp, int argc, Tcl_Obj *const argv[]){
  char name[2048];
  int rc;
  (void)data;
  if( argc!=2 ) return Tcl_WrongNumArgs(interp, 1, argv, "PATH"), TCL_ERROR;
  rc = pathsFull(0, Tcl_GetString(argv[1]), sizeof(name), name);
  if( rc!=SQLITE_OK ) return failed(interp, "facet_name", rc);
  Tcl_SetObjResult(interp, Tcl_NewStringObj(name, -1));
  return TCL_OK;
}

static int facetNames(void *data, Tcl_Interp *interp, int argc, Tcl_Obj *const argv[]){
  struct Seen *one;
  Tcl_Obj *names = Tcl_NewListObj(0, 0);
  (void)data;
  if( argc!=1 ) return Tcl_WrongNumArgs(interp, 1, argv, ""), TCL_ERROR;
  for(one=seen; one; one=one->next){
    Facet facet;
    if( openFacet(&facet, one->name, SQLITE_OPEN_READONLY)==SQLITE_OK ){
      closeFacet(&facet);
      Tcl_ListObjAppendElement(interp, names, Tcl_NewStringObj(one->name, -1));
    }
  }
  Tcl_SetObjResult(interp, names);
  return TCL_OK;
}

int Paths_Init(Tcl_Interp *interp){
  Tcl_CreateObjCommand(interp, "facet_size", facetSize, 0, 0);
  Tcl_CreateObjCommand(interp, "facet_get", facetGet, 0, 0);
  Tcl_CreateObjCommand(interp, "facet_put", facetPut, 0, 0);
  Tcl_CreateObjCommand(interp, "facet_name", facetNameCommand, 0, 0);
  Tcl_CreateObjCommand(interp, "facet_names", facetNames, 0, 0);
  return TCL_OK;
}
