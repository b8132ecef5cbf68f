#include "trace/trace-migration_ft.h"
