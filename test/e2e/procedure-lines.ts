/** What QEMU's COLO-FT procedure types at shells and monitors, as it stands in its document; hosts and ports are ours. */
/** Of the first primary's command line: all but the machine. */
export function primaryWords(disk: string): string[] {
  const words =
    '-chardev socket,id=mirror0,host=127.0.0.1,port=9003,server,nowait ' +
    '-chardev socket,id=compare1,host=127.0.0.1,port=9004,server,wait ' +
    '-chardev socket,id=compare0,host=127.0.0.1,port=9001,server,nowait ' +
    '-chardev socket,id=compare0-0,host=127.0.0.1,port=9001 ' +
    '-chardev socket,id=compare_out,host=127.0.0.1,port=9005,server,nowait ' +
    '-chardev socket,id=compare_out0,host=127.0.0.1,port=9005 ' +
    '-object filter-mirror,id=m0,netdev=hn0,queue=tx,outdev=mirror0 ' +
    '-object filter-redirector,netdev=hn0,id=redire0,queue=rx,indev=compare_out ' +
    '-object filter-redirector,netdev=hn0,id=redire1,queue=rx,outdev=compare0 ' +
    '-object iothread,id=iothread1 ' +
    '-object colo-compare,id=comp0,primary_in=compare0-0,secondary_in=compare1,outdev=compare_out0,iothread=iothread1 ' +
    '-drive if=ide,id=colo-disk0,driver=quorum,read-pattern=fifo,vote-threshold=1,' +
    `children.0.file.filename=${disk},children.0.driver=qcow2 -S`;
  return words.split(' ');
}

/** The same of a secondary's, whose replicated disk has two overlays. */
export function secondaryWords(disk: string, active: string, hidden: string): string[] {
  const words =
    '-chardev socket,id=red0,host=127.0.0.1,port=9003,reconnect=1 ' +
    '-chardev socket,id=red1,host=127.0.0.1,port=9004,reconnect=1 ' +
    '-object filter-redirector,id=f1,netdev=hn0,queue=tx,indev=red0 ' +
    '-object filter-redirector,id=f2,netdev=hn0,queue=rx,outdev=red1 ' +
    '-object filter-rewriter,id=rew0,netdev=hn0,queue=all ' +
    `-drive if=none,id=parent0,file.filename=${disk},driver=qcow2 ` +
    '-drive if=none,id=childs0,driver=replication,mode=secondary,file.driver=qcow2,top-id=childs0,' +
    `file.file.filename=${active},file.backing.driver=qcow2,file.backing.file.filename=${hidden},` +
    'file.backing.backing=parent0 ' +
    '-drive if=ide,id=colo-disk0,driver=quorum,read-pattern=fifo,vote-threshold=1,children.0=childs0 ' +
    '-incoming tcp:0:9998';
  return words.split(' ');
}

export const CAPABILITIES = "{'execute':'qmp_capabilities'}";
export const SECONDARY_LINES = [
  "{'execute':'nbd-server-start','arguments':{'addr':{'type':'inet','data':{'host':'127.0.0.2','port':'9999'}}}}",
  "{'execute':'nbd-server-add','arguments':{'device':'parent0','writable':true}}",
];
export const ATTACH_LINES = [
  "{'execute':'human-monitor-command','arguments':{'command-line':'drive_add -n buddy driver=replication,mode=primary,file.driver=nbd,file.host=127.0.0.2,file.port=9999,file.export=parent0,node-name=replication0'}}",
  "{'execute':'x-blockdev-change','arguments':{'parent':'colo-disk0','node':'replication0'}}",
];
export const MIGRATE_LINES = [
  "{'execute':'migrate-set-capabilities','arguments':{'capabilities':[{'capability':'x-colo','state':true}]}}",
  "{'execute':'migrate','arguments':{'uri':'tcp:127.0.0.2:9998'}}",
];
export const PRIMARY_FAILOVER_LINES = [
  "{'execute':'x-blockdev-change','arguments':{'parent':'colo-disk0','child':'children.1'}}",
  "{'execute':'human-monitor-command','arguments':{'command-line':'drive_del replication0'}}",
  "{'execute':'object-del','arguments':{'id':'comp0'}}",
  "{'execute':'object-del','arguments':{'id':'iothread1'}}",
  "{'execute':'object-del','arguments':{'id':'m0'}}",
  "{'execute':'object-del','arguments':{'id':'redire0'}}",
  "{'execute':'object-del','arguments':{'id':'redire1'}}",
  "{'execute':'x-colo-lost-heartbeat'}",
];
export const SECONDARY_FAILOVER_LINES = [
  "{'execute':'nbd-server-stop'}",
  "{'execute':'x-colo-lost-heartbeat'}",
  "{'execute':'object-del','arguments':{'id':'f2'}}",
  "{'execute':'object-del','arguments':{'id':'f1'}}",
  "{'execute':'chardev-remove','arguments':{'id':'red1'}}",
  "{'execute':'chardev-remove','arguments':{'id':'red0'}}",
];
const chardevAdd = (id: string, port: number, server: boolean): string =>
  `{'execute':'chardev-add','arguments':{'id':'${id}','backend':{'type':'socket','data':{'addr':{'type':'inet','data':{'host':'127.0.0.1','port':'${port}'}},'server':${server}}}}}`;
export const CHARDEV_LINES = [
  chardevAdd('mirror0', 9003, true),
  chardevAdd('compare1', 9004, true),
  chardevAdd('compare0', 9001, true),
  chardevAdd('compare0-0', 9001, false),
  chardevAdd('compare_out', 9005, true),
  chardevAdd('compare_out0', 9005, false),
];
export const MIRROR_LINE =
  "{'execute':'drive-mirror','arguments':{'device':'colo-disk0','job-id':'resync','target':'nbd://127.0.0.2:9999/parent0','mode':'existing','format':'raw','sync':'full'}}";
/** The old form with props, which QEMU's document has, for some; the flat form for others. */
export const RESUME_OBJECT_LINES = [
  "{'execute':'object-add','arguments':{'qom-type':'filter-mirror','id':'m0','props':{'insert':'before','position':'id=rew0','netdev':'hn0','queue':'tx','outdev':'mirror0'}}}",
  "{'execute':'object-add','arguments':{'qom-type':'filter-redirector','id':'redire0','insert':'before','position':'id=rew0','netdev':'hn0','queue':'rx','indev':'compare_out'}}",
  "{'execute':'object-add','arguments':{'qom-type':'filter-redirector','id':'redire1','insert':'before','position':'rew0','netdev':'hn0','queue':'rx','outdev':'compare0'}}",
  "{'execute':'object-add','arguments':{'qom-type':'iothread','id':'iothread1'}}",
  "{'execute':'object-add','arguments':{'qom-type':'colo-compare','id':'comp0','primary_in':'compare0-0','secondary_in':'compare1','outdev':'compare_out0','iothread':'iothread1'}}",
];
